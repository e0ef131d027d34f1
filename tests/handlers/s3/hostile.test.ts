/** What no good server does, and what happens around one: answers that do not end, echoes that mislead, keys that rotate. */
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest';
import { createS3Handler } from '../../../src/handlers/s3/index.ts';
import { startS3Server } from '../../s3-server/server.ts';
import { createDisk } from '../../support/disk.ts';
import { createTestContext } from '../context.ts';
import { BUCKET, cleanup, keysBelow, setUp } from './support.ts';

const errors = (...entries: readonly string[]) =>
  `<?xml version="1.0"?><DeleteResult>${entries.map(entry => `<Error>${entry}</Error>`).join('')}</DeleteResult>`;

describe('errors inside an answer', () => {
  it('of two keys that a server takes for one belong to both', async () => {
    const { server, run } = await setUp();
    // As MinIO does: the leading slash is gone from the answer, so that both are called `b`.
    const denied = '<Key>b</Key><Code>AccessDenied</Code>';
    const has = (...keys: string[]) => keys.every(key => server.requests.at(-1)?.keys.includes(key));
    server.faults.when(() => has('/b', 'b'), { kind: 'raw', status: 200, body: errors(denied, denied) });
    server.faults.when(() => has('/b') || has('b'), { kind: 'raw', status: 200, body: errors(denied) });
    const results = await run('a', '/b', 'b', 'c');
    expect(results.map(({ outcome }) => outcome)).toEqual(['deleted', 'dead', 'dead', 'deleted']);
  });

  it('that name no key are told apart all the same', async () => {
    const { server, run } = await setUp();
    server.faults.when(({ keys }) => keys.includes('c'), {
      kind: 'raw',
      status: 200,
      body: errors('<Code>AccessDenied</Code>'),
    });
    const results = await run('a', 'b', 'c', 'd', 'e');
    expect(results.map(({ outcome }) => outcome)).toEqual([
      'deleted',
      'deleted',
      'dead',
      'deleted',
      'deleted',
    ]);
  });
});

/** A server that answers everything with what it is told, and as long as it is asked. */
async function endless(chunk: string, chunks: number, status = 200) {
  let [sent, cut] = [0, 0];
  const server = createServer((request, response) => {
    request.resume();
    response.writeHead(status, { 'Content-Type': 'application/xml' });
    let left = chunks;
    const write = () => {
      while (left > 0 && !response.destroyed) {
        left -= 1;
        sent += chunk.length;
        if (!response.write(chunk)) return void response.once('drain', write);
      }
    };
    response.once('close', () => {
      cut += 1;
    });
    write();
  });
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  const credentials = { accessKeyId: 'a', secretAccessKey: 's' };
  const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const handler = createS3Handler({ stores: new Map([[`s3://${BUCKET}`, { endpoint, credentials }]]) });
  onTestFinished(async () => {
    await handler.close?.();
    server.closeAllConnections();
    server.close();
  });
  return { handler, sent: () => sent, cut: () => cut };
}

describe('an answer', () => {
  it.each([200, 403])('(%i) that does not end is not kept in memory', async status => {
    const { handler, sent, cut } = await endless(' '.repeat(1_000_000), 1_000, status);
    const [result] = await handler.delete([cleanup('a/')], createTestContext());
    expect(result).toMatchObject({ outcome: 'unavailable', error: expect.stringContaining('longer than') });
    // And the rest of it is not even read.
    await vi.waitUntil(() => cut() === 1, { timeout: 20_000 });
    expect(sent()).toBeLessThan(500_000_000);
  });

  it('that is cut off is not taken for all there is to say', async () => {
    const { server, run, runOne } = await setUp();
    for (const key of ['a', 'b', 'p/1', 'p/2']) server.buckets.put(BUCKET, key);
    const denied = '<Error><Key>b</Key><Code>AccessDenied</Code></Error>';
    const whole = `<?xml version="1.0"?>\n<DeleteResult><Deleted><Key>a</Key></Deleted>${denied}</DeleteResult>`;
    const raw = (body: string) => server.faults.next({ kind: 'raw', status: 200, body });
    for (const end of [whole.indexOf('<Error'), whole.indexOf('</Key>'), whole.length - 1]) {
      raw(whole.slice(0, end));
      const results = await run('a', 'b');
      expect(results.map(({ outcome }) => outcome)).toEqual(['unavailable', 'unavailable']);
    }
    raw('<ListBucketResult><Contents><Key>p/1</Key><Size>1</Size></Contents>');
    expect(await runOne('p/')).toMatchObject({
      outcome: 'unavailable',
      error: expect.stringContaining('cut off'),
    });
    expect(server.buckets.list(BUCKET)).toEqual(['a', 'b', 'p/1', 'p/2']);
    for (const body of [whole, `${whole}\n<!-- by a proxy -->\n`]) {
      raw(body);
      const results = await run('a', 'b');
      expect(results.map(({ outcome }) => outcome)).toEqual(['deleted', 'dead']);
    }
    for (const body of ['<DeleteResult/>', '<?xml version="1.0"?><DeleteResult xmlns="urn:s3" />\n']) {
      raw(body);
      const results = await run('a', 'b');
      expect(results.map(({ outcome }) => outcome)).toEqual(['deleted', 'deleted']);
    }
  });

  it('whose elements have a prefix is not understood, and not taken for success', async () => {
    const { server, run } = await setUp();
    const denied = '<s3:Error><s3:Key>b</s3:Key><s3:Code>AccessDenied</s3:Code></s3:Error>';
    const body = `<s3:DeleteResult xmlns:s3="urn:s3">${denied}</s3:DeleteResult>`;
    server.faults.next({ kind: 'raw', status: 200, body });
    const results = await run('a', 'b');
    expect(results.map(({ outcome }) => outcome)).toEqual(['unavailable', 'unavailable']);
  });

  it('that names all that was deleted tells as much as a quiet one', async () => {
    const { server, run } = await setUp();
    const deleted = ['a', 'Error'].map(key => `<Deleted><Key>${key}</Key></Deleted>`);
    for (const body of [deleted[0], deleted.join('')]) {
      server.faults.next({ kind: 'raw', status: 200, body: `<DeleteResult>${body}</DeleteResult>` });
      const results = await run('a', 'Error');
      expect(results.map(({ outcome }) => outcome)).toEqual(['deleted', 'deleted']);
    }
  });

  it('that stops in the middle ends with the time limit, and its connection with it', async () => {
    const { handler, cut } = await endless('<?xml version="1.0"?><ListBucketResult>', 1);
    const [result] = await handler.delete([cleanup('a/')], createTestContext({ timeout: 3_000 }));
    expect(result).toMatchObject({ outcome: 'unavailable' });
    await vi.waitUntil(() => cut() === 1, { timeout: 20_000 });
  });
});

describe('credentials', () => {
  afterEach(() => vi.unstubAllEnvs());

  it.each(['ExpiredToken', 'InvalidAccessKeyId', 'InvalidToken', 'SignatureDoesNotMatch'])(
    'that were replaced in their file are found after %s, without a restart',
    async code => {
      const server = await startS3Server({ buckets: [BUCKET] });
      const disk = createDisk();
      const file = disk.at('credentials');
      const write = (id: string, secret: string) =>
        writeFileSync(file, `[default]\naws_access_key_id = ${id}\naws_secret_access_key = ${secret}\n`);
      for (const name of ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_PROFILE', 'AWS_SESSION_TOKEN'])
        vi.stubEnv(name, undefined);
      vi.stubEnv('AWS_SHARED_CREDENTIALS_FILE', file);
      vi.stubEnv('AWS_CONFIG_FILE', disk.at('none'));
      const { endpoint } = server;
      const handler = createS3Handler({ stores: new Map([[`s3://${BUCKET}`, { endpoint }]]) });
      onTestFinished(async () => {
        await handler.close?.();
        await server.stop();
      });
      const context = createTestContext();
      write(server.accessKeyId, server.secretAccessKey);
      expect(await handler.delete([cleanup('a')], context)).toMatchObject([{ outcome: 'deleted' }]);
      // Replaced twice: what the file said in between must not be remembered either.
      for (const id of ['second', 'third']) {
        write(id, server.secretAccessKey);
        server.forgetRequests();
        server.faults.next({ kind: 'error', code, status: 403 });
        await handler.delete([cleanup('a')], context);
        const ids = server.requests.map(
          ({ headers }) => /Credential=(\w[\w-]*)/.exec(`${headers.authorization}`)?.[1],
        );
        expect(ids).toHaveLength(2);
        expect(ids[1]).toBe(id);
      }
      write(server.accessKeyId, server.secretAccessKey);
      expect(await handler.delete([cleanup('a')], context)).toMatchObject([{ outcome: 'deleted' }]);
    },
  );
});

describe('incomplete uploads', () => {
  const due = (key: string) => ({ ...cleanup(key), dueSince: performance.now() });
  const listing = ({ operation }: { operation: string }) => operation === 'ListMultipartUploads';

  it('that a server will not list for a key do not kill its row: the object is gone', async () => {
    const { server, handler, context } = await setUp();
    // As directory buckets do, whose prefixes end with a slash, or MinIO for names that it does not like.
    server.faults.when(listing, { kind: 'error', code: 'InvalidArgument', message: 'Prefix', status: 400 });
    for (const keys of [['a'], ['p/'], keysBelow('k/', 30)]) {
      for (const result of await handler.delete(keys.map(due), context)) {
        expect(result.outcome).toMatch(/deleted|absent/);
      }
    }
  });

  it('that could not be seen are looked for again when some time has passed', async () => {
    const { server, handler, context } = await setUp();
    server.faults.next({ kind: 'error', code: 'AccessDenied' }, 1, listing);
    server.buckets.beginUpload(BUCKET, 'a', new Date(Date.now() - 3_600_000));
    const asked = () => server.requests.filter(listing).length;
    await handler.delete([due('a')], context);
    await handler.delete([due('a')], context);
    expect(asked()).toBe(1);
    const now = performance.now.bind(performance);
    vi.spyOn(performance, 'now').mockImplementation(() => now() + 3_600_000);
    onTestFinished(() => void vi.restoreAllMocks());
    await handler.delete([due('a')], context);
    expect(asked()).toBeGreaterThan(1);
    expect(server.buckets.uploads(BUCKET)).toEqual([]);
  });

  it('of many keys are listed once where many batches begin at the same time', async () => {
    const { server, handler, context } = await setUp();
    const batches = ['a/', 'b/', 'c/', 'd/'].map(prefix => keysBelow(prefix, 100).map(due));
    for (const key of ['a/000003', 'd/000003']) {
      server.buckets.beginUpload(BUCKET, key, new Date(Date.now() - 3_600_000));
    }
    await Promise.all(batches.map(batch => handler.delete(batch, context)));
    expect(server.buckets.uploads(BUCKET)).toEqual([]);
    // The root's, and two looks at each key that has some.
    expect(server.requests.filter(listing)).toHaveLength(5);
  });
});
