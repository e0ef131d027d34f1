import { afterEach, describe, expect, it, vi } from 'vitest';
import { createS3Handler } from '../../../src/handlers/s3/index.ts';
import { ACCESS_DENIED, INTERNAL_ERROR, SLOW_DOWN, UNAVAILABLE } from '../../s3-server/server.ts';
import { createTestContext } from '../context.ts';
import { BUCKET, cleanup, handlerOf, keysBelow, ROOT, setUp, unchecked } from './support.ts';

afterEach(() => vi.unstubAllEnvs());

describe('batches', () => {
  it('sends no request for no keys, one for 1,000, two for 1,001', async () => {
    const { run, requests } = await setUp();
    expect(await run()).toEqual([]);
    expect(requests('DeleteObjects')).toHaveLength(0);
    await run(...keysBelow('a/', 1000));
    expect(requests('DeleteObjects').map(({ keys }) => keys.length)).toEqual([1000]);
    await run(...keysBelow('b/', 1001));
    const sizes = requests('DeleteObjects').map(({ keys }) => keys.length);
    expect(sizes.sort((a, b) => a - b)).toEqual([1, 1000, 1000]);
  });

  it('sends a key once that two cleanups name, and counts its object once', async () => {
    const { server, run, requests } = await setUp();
    server.buckets.put(BUCKET, 'a', 'x');
    expect(await run('a', 'b', 'a')).toEqual([
      { outcome: 'deleted', objects: 1, bytes: null },
      { outcome: 'deleted', objects: 1, bytes: null },
      { outcome: 'absent', objects: 0, bytes: null },
    ]);
    expect(requests('DeleteObjects').map(({ keys }) => keys)).toEqual([['a', 'b']]);
  });

  it('gives each row the error of its own key, and lets its siblings succeed', async () => {
    const { server, run } = await setUp();
    for (const key of ['a', 'b', 'c', 'd', 'e']) server.buckets.put(BUCKET, key);
    const errors = new Map([
      ['b', { code: 'AccessDenied', message: 'Object is WORM protected' }],
      ['c', { code: 'InternalError' }],
      ['d', { code: 'NoSuchKey' }],
    ]);
    server.faults.perKey(key => errors.get(key));
    const results = await run('a', 'b', 'c', 'd', 'e');
    expect(results.map(({ outcome }) => outcome)).toEqual(['deleted', 'dead', 'retry', 'absent', 'deleted']);
    expect(results[1]).toMatchObject({
      objects: 0,
      error: expect.stringMatching(
        /could not delete from bucket "test-bucket" at http:.*: AccessDenied: Object is WORM protected; grant .* lock/,
      ),
    });
    expect(server.buckets.list(BUCKET)).toEqual(['b', 'c', 'd']);
  });

  it('finds out which key is meant when the server echoes another', async () => {
    const { server, run } = await setUp();
    // As MinIO does: the leading slash is gone from the answer.
    const refuse = (key: string) =>
      `<?xml version="1.0"?><DeleteResult><Error><Key>${key}</Key><Code>AccessDenied</Code></Error></DeleteResult>`;
    server.faults.when(({ keys }) => keys.includes('/b'), { kind: 'raw', status: 200, body: refuse('b') });
    const results = await run('a', '/b', 'c', 'd');
    expect(results.map(({ outcome }) => outcome)).toEqual(['deleted', 'dead', 'deleted', 'deleted']);
  });

  it('does not let one key take a whole batch with it', async () => {
    const { server, run } = await setUp();
    // As versitygw does: one locked object, and nothing of the batch is deleted.
    server.faults.when(({ keys }) => keys.includes('k/000077'), ACCESS_DENIED);
    const keys = keysBelow('k/', 100);
    for (const key of keys) server.buckets.put(BUCKET, key);
    const results = await run(...keys);
    expect(results.map(({ outcome }) => outcome).filter(outcome => outcome === 'dead')).toHaveLength(1);
    expect(results[77]).toMatchObject({ outcome: 'dead' });
    expect(server.buckets.list(BUCKET)).toEqual(['k/000077']);
  });

  it('asks a bucket that is not there once, and never calls its objects gone', async () => {
    const { server, run, operations } = await setUp();
    server.buckets.removeBucket(BUCKET);
    const results = await run(...keysBelow('a/', 10), 'tab\u2028bed', 't/');
    for (const result of results) {
      expect(result).toMatchObject({
        outcome: 'dead',
        objects: 0,
        error: expect.stringMatching(/NoSuchBucket \(HTTP 404\).*check the bucket's name/),
      });
    }
    expect(operations()).toEqual(['DeleteObjects', 'ListObjectsV2']);
  });
});

describe('a request that fails as a whole', () => {
  const cases = [
    [SLOW_DOWN, 'retry'],
    [UNAVAILABLE, 'unavailable'],
    [INTERNAL_ERROR, 'unavailable'],
    [ACCESS_DENIED, 'dead'],
    [{ kind: 'error', code: 'XSomethingNew', status: 400 }, 'retry'],
    [{ kind: 'error', code: 'SignatureDoesNotMatch' }, 'dead'],
    [{ kind: 'error', code: 'InvalidAccessKeyId' }, 'dead'],
    [{ kind: 'error', code: 'ExpiredToken', status: 400 }, 'retry'],
    [{ kind: 'error', code: 'MethodNotAllowed' }, 'dead'],
    [{ kind: 'error', code: 'PermanentRedirect', status: 301 }, 'dead'],
    [{ kind: 'error', code: 'RequestTimeTooSkewed' }, 'retry'],
    [{ kind: 'error', code: 'OperationAborted', status: 409 }, 'retry'],
    [{ kind: 'error_in_200', code: 'SlowDown' }, 'retry'],
    [{ kind: 'error_in_200', code: 'InternalError' }, 'unavailable'],
    [{ kind: 'raw', status: 200, body: '<Error><Code>SlowDown</Code></Error>\n' }, 'retry'],
    [{ kind: 'raw', status: 200, body: '<!doctype html><html><body>Welcome</body></html>' }, 'unavailable'],
    [{ kind: 'raw', status: 404, body: '404 page not found' }, 'unavailable'],
    [{ kind: 'raw', status: 403, body: '<html>Forbidden</html>' }, 'dead'],
    [{ kind: 'raw', status: 502, body: 'Bad Gateway' }, 'unavailable'],
    [{ kind: 'raw', status: 429, body: '' }, 'retry'],
    [{ kind: 'reset', when: 'before' }, 'unavailable'],
    [{ kind: 'reset', when: 'after_commit' }, 'unavailable'],
    [{ kind: 'stop', when: 'before' }, 'unavailable'],
  ] as const;
  for (const deleteMode of ['batch', 'single'] as const) {
    it.each(cases)(`deleteMode ${deleteMode}: %j is %s`, async (fault, outcome) => {
      const { server, runOne } = await setUp({ deleteMode });
      server.faults.next(fault);
      // One key that a server stumbles over is no outage, where that key is all that was asked for.
      const itself = deleteMode === 'single' && 'code' in fault && fault.code === 'InternalError';
      const result = await runOne('a');
      expect(result).toMatchObject({ outcome: itself ? 'retry' : outcome, objects: 0 });
      expect(result).toMatchObject({
        error: expect.stringContaining(server.endpoint.slice('http://'.length)),
      });
    });
  }

  it('is not taken for success because the answer is empty', async () => {
    const { server, runOne } = await setUp();
    server.faults.next({ kind: 'raw', status: 200, body: '' });
    expect(await runOne('a')).toMatchObject({
      outcome: 'unavailable',
      error: expect.stringContaining('is empty'),
    });
  });

  it('is all told in the message: what, where, what came back', async () => {
    const { server, runOne } = await setUp();
    server.faults.next(UNAVAILABLE);
    expect(await runOne('a')).toMatchObject({
      error: `could not delete from bucket "test-bucket" at ${server.endpoint}: ServiceUnavailable (HTTP 503): Service is unable to handle request.`,
    });
    await server.stop();
    expect(await runOne('a')).toMatchObject({
      outcome: 'unavailable',
      error: expect.stringContaining(`connect ECONNREFUSED 127.0.0.1:${server.port}`),
    });
  });

  it('is over when the store is back', async () => {
    const { server, runOne } = await setUp();
    server.buckets.put(BUCKET, 'a');
    await server.stop();
    expect(await runOne('a')).toMatchObject({ outcome: 'unavailable' });
    await server.start();
    expect(await runOne('a')).toMatchObject({ outcome: 'deleted' });
    expect(server.buckets.count(BUCKET)).toBe(0);
  });

  it('is sent again at once if only an idle connection had gone stale', async () => {
    const { server, runOne, requests } = await setUp();
    await runOne('first');
    server.faults.next({ kind: 'reset', when: 'before' });
    expect(await runOne('a')).toMatchObject({ outcome: 'deleted' });
    expect(requests('DeleteObjects').map(({ keys }) => keys)).toEqual([['first'], ['a'], ['a']]);
  });

  it('is safe to repeat when it had been done', async () => {
    const { server, runOne } = await setUp();
    server.buckets.put(BUCKET, 'a');
    server.faults.next({ kind: 'reset', when: 'after_commit' });
    expect(await runOne('a')).toMatchObject({ outcome: 'unavailable', objects: 0 });
    expect(server.buckets.has(BUCKET, 'a')).toBe(false);
    expect(await runOne('a')).toMatchObject({ outcome: 'deleted' });
  });

  it('ends when it takes too long', async () => {
    const { server, runOne } = await setUp();
    server.faults.when(() => true, { kind: 'hang', when: 'before' });
    const context = createTestContext({ timeout: 100 });
    for (const key of ['a', 'a/']) {
      expect(await runOne(key, context)).toMatchObject({
        outcome: 'unavailable',
        error: expect.stringMatching(/did not answer within 100 ms/),
      });
    }
  });

  it('ends by the storage timeout where a context sets no limit', async () => {
    const { server, runOne } = await setUp({ storageTimeout: 100 });
    server.faults.when(() => true, { kind: 'hang', when: 'before' });
    expect(await runOne('a')).toMatchObject({ outcome: 'unavailable' });
  });
});

describe('keys', () => {
  const HOSTILE = [
    `& < > " '`,
    'a\tb',
    'CR\rLF\nCRLF\r\n',
    'plus+plus',
    'per%20cent%2Fslash',
    '🦀 emoji \u{10fffd}',
    '/leading',
    'two//slashes',
    'trailing spaces  ',
    '  leading spaces',
    'e\u0301 decomposed',
    '\u00e9 composed',
    '\u0085\u2028\u2029 lines',
    `all of !'()*~;:@=,$#?[]{}|\\^\``,
    'bell \u0007 and \u0001 and \u007f',
    'not a character \ufffe \uffff',
    'x'.repeat(1024),
  ];

  it.each(['auto', 'single'] as const)('arrive as they are, deleteMode %s', async deleteMode => {
    const { server, handler, context, requests } = await setUp({ deleteMode });
    for (const key of HOSTILE) server.buckets.put(BUCKET, key);
    const decoys = [
      'per cent/slash',
      'per%20cent/slash',
      'plus plus',
      'leading',
      'two/slashes',
      'trailing spaces',
    ];
    for (const key of decoys) server.buckets.put(BUCKET, key);
    const results = await handler.delete(
      HOSTILE.map(key => unchecked(key)),
      context,
    );
    for (const result of results) expect(result).toMatchObject({ outcome: 'deleted' });
    expect(server.buckets.list(BUCKET)).toEqual([...decoys].sort());
    if (deleteMode === 'auto') {
      const singles = requests('DeleteObject').flatMap(({ keys }) => keys);
      expect(singles).toEqual(['bell \u0007 and \u0001 and \u007f', 'not a character \ufffe \uffff']);
    }
  });

  it('come back out of a listing as they are', async () => {
    const { server, runOne } = await setUp();
    const keys = [...HOSTILE.slice(0, -1), 'a/../b', './c', '//'].map(key => `in/${key}`);
    for (const key of keys) server.buckets.put(BUCKET, key, '12345');
    server.buckets.put(BUCKET, 'out');
    expect(await runOne('in/')).toMatchObject({
      outcome: 'deleted',
      objects: keys.length,
      bytes: 5 * keys.length,
    });
    expect(server.buckets.list(BUCKET)).toEqual(['out']);
  });

  it('never change a path: dots go in a batch or not at all', async () => {
    const { server, handler, context, requests } = await setUp();
    const keys = ['a/../b', '..', './x', '/', '//'];
    for (const key of keys) server.buckets.put(BUCKET, key);
    const batch = keys.map(key => unchecked(key));
    for (const result of await handler.delete(batch, context)) expect(result.outcome).toBe('deleted');
    expect(requests('DeleteObjects').map(request => request.keys)).toEqual([keys]);

    const single = handlerOf(server, { deleteMode: 'single' });
    server.forgetRequests();
    for (const result of await single.delete(batch, context)) {
      expect(result).toMatchObject({
        outcome: 'dead',
        error: expect.stringContaining('refused before any request'),
      });
    }
    const spoiled = ['x/../\u0001', 'half a pair \ud83e'].map(key => unchecked(key));
    for (const result of await handler.delete(spoiled, context)) expect(result.outcome).toBe('dead');
    expect(server.requests).toEqual([]);
    await single.close?.();
  });

  it.each(['auto', 'single'] as const)(
    'are never empty, nor is a bucket, deleteMode %s',
    async deleteMode => {
      const { server, handler, context } = await setUp({ deleteMode });
      const nothing = [unchecked(''), unchecked('a', '')];
      const trees = nothing.map(({ target, ...rest }) => ({ ...rest, target: { ...target, tree: true } }));
      for (const one of [...nothing, ...trees]) {
        const [result] = await handler.delete([one], context);
        expect(result).toMatchObject({ outcome: 'dead', error: expect.stringContaining('never empty') });
      }
      expect(server.requests).toEqual([]);
      expect(server.buckets.hasBucket(BUCKET)).toBe(true);
    },
  );

  it('are refused outside of the root, without a request', async () => {
    const { server, handler, context } = await setUp();
    const root = `${ROOT}in/`;
    const results = await handler.delete(
      [
        { ...cleanup('a'), root },
        { ...cleanup('in/a'), root },
      ],
      context,
    );
    expect(results[0]).toMatchObject({
      outcome: 'dead',
      error: `"s3://test-bucket/a" is not inside its root "s3://test-bucket/in/": nothing was touched`,
    });
    expect(results[1]).toMatchObject({ outcome: 'deleted' });
    expect(server.requests.flatMap(({ keys }) => keys)).toEqual(['in/a']);
  });
});

describe('a server without DeleteObjects', () => {
  it('gets single deletes, and is remembered', async () => {
    const { server, run, runOne, operations } = await setUp();
    server.faults.noBatch();
    for (const key of ['a', 'b', 't/1', 't/2', 'c']) server.buckets.put(BUCKET, key, 'xyz');
    for (const result of await run('a', 'b')) expect(result).toMatchObject({ outcome: 'deleted' });
    expect(operations()).toEqual(['DeleteObjects', 'DeleteObject', 'DeleteObject']);
    server.forgetRequests();
    expect(await runOne('t/')).toMatchObject({ outcome: 'deleted', objects: 2, bytes: 6 });
    expect(await runOne('c')).toMatchObject({ outcome: 'deleted' });
    expect(operations()).toEqual(['ListObjectsV2', 'DeleteObject', 'DeleteObject', 'DeleteObject']);
    expect(server.buckets.count(BUCKET)).toBe(0);
  });

  it('is told of where only batches are wanted', async () => {
    const { server, run } = await setUp({ deleteMode: 'batch' });
    server.faults.noBatch();
    for (const result of await run('a', 'b')) {
      expect(result).toMatchObject({ outcome: 'dead', error: expect.stringContaining('NotImplemented') });
    }
  });

  it('has its own error for each key', async () => {
    const { server, run } = await setUp({ deleteMode: 'single' });
    const errors = new Map([
      ['b', { code: 'AccessDenied' }],
      ['c', { code: 'NoSuchKey' }],
      ['d', { code: 'InternalError' }],
    ]);
    server.faults.perKey(key => errors.get(key));
    const results = await run('a', 'b', 'c', 'd', 'e');
    expect(results.map(({ outcome }) => outcome)).toEqual(['deleted', 'dead', 'absent', 'retry', 'deleted']);
  });

  it('is not asked a thousand times when it is down', async () => {
    const { server, run, context } = await setUp({ deleteMode: 'single' });
    await server.stop();
    const results = await run(...keysBelow('a/', 1000));
    for (const result of results) expect(result).toMatchObject({ outcome: 'unavailable' });
    expect(context.calls).toBeLessThan(50);
  });
});

describe('settings', () => {
  it('are the environment where none are given', async () => {
    const { server, context } = await setUp();
    vi.stubEnv('AWS_ENDPOINT_URL_S3', server.endpoint);
    vi.stubEnv('AWS_ACCESS_KEY_ID', server.accessKeyId);
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', server.secretAccessKey);
    const handler = createS3Handler({ stores: new Map() });
    server.buckets.put(BUCKET, 'a');
    expect(await handler.delete([cleanup('a')], context)).toMatchObject([{ outcome: 'deleted' }]);
    expect(server.buckets.count(BUCKET)).toBe(0);
    await handler.close?.();
  });

  it('without credentials end in advice', async () => {
    const { server, context } = await setUp();
    vi.stubEnv('AWS_EC2_METADATA_DISABLED', 'true');
    vi.stubEnv('AWS_CONFIG_FILE', '/nonexistent/config');
    vi.stubEnv('AWS_SHARED_CREDENTIALS_FILE', '/nonexistent/credentials');
    const stores = new Map([[`s3://${BUCKET}`, { endpoint: server.endpoint }]]);
    const handler = createS3Handler({ stores });
    expect(await handler.delete([cleanup('a')], context)).toMatchObject([
      {
        outcome: 'dead',
        error: expect.stringMatching(/Could not load credentials.*; give the root `credentials`/),
      },
    ]);
    await handler.close?.();
  });

  it('of a wrong secret are refused, in words that do not give it away', async () => {
    const { server, context } = await setUp();
    const credentials = { accessKeyId: server.accessKeyId, secretAccessKey: 'not-the-secret' };
    const handler = handlerOf(server, { credentials });
    const [result] = await handler.delete([cleanup('a')], context);
    expect(result).toMatchObject({
      outcome: 'dead',
      error: expect.stringContaining('SignatureDoesNotMatch (HTTP 403)'),
    });
    expect(JSON.stringify(result)).not.toContain('not-the-secret');
    await expect(handler.probe(ROOT, context)).rejects.toMatchObject({
      kind: 'permanent',
      message: expect.stringMatching(
        /could not list "" in bucket.*SignatureDoesNotMatch.*check the root's `credentials`/,
      ),
    });
    await handler.close?.();
  });
});

describe('looking', () => {
  it('probes a root with one listing of one key', async () => {
    const { server, handler, context, requests } = await setUp();
    await handler.probe(ROOT, context);
    await handler.probe(`${ROOT}in/`, context);
    expect(
      requests('ListObjectsV2').map(({ query }) => [query.get('prefix'), query.get('max-keys')]),
    ).toEqual([
      ['', '1'],
      ['in/', '1'],
    ]);
    server.buckets.removeBucket(BUCKET);
    await expect(handler.probe(ROOT, context)).rejects.toMatchObject({
      name: 'StorageError',
      kind: 'permanent',
    });
    await server.stop();
    await expect(handler.probe(ROOT, context)).rejects.toMatchObject({ kind: 'unavailable' });
  });

  it('inspects without a delete', async () => {
    const { server, handler, context, operations } = await setUp();
    for (const key of [...keysBelow('t/', 1500), 'a', 'ab']) server.buckets.put(BUCKET, key, '1234');
    expect(await handler.inspect(cleanup('a'), context)).toEqual({ exists: true, objects: 1, bytes: 4 });
    expect(await handler.inspect(cleanup('t/'), context)).toEqual({
      exists: true,
      objects: 1500,
      bytes: 6000,
    });
    expect(await handler.inspect(cleanup('t/0'), context)).toEqual({
      exists: false,
      objects: 0,
      bytes: null,
    });
    const outside = { ...cleanup('a'), root: `${ROOT}t/` };
    expect(await handler.inspect(outside, context)).toMatchObject({
      exists: false,
      problem: expect.any(String),
    });
    expect(new Set(operations())).toEqual(new Set(['ListObjectsV2']));
    server.buckets.removeBucket(BUCKET);
    await expect(handler.inspect(cleanup('a'), context)).rejects.toThrow('NoSuchBucket');
  });
});
