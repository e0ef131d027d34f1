import { describe, expect, it } from 'vitest';
import type { Cleanup } from '../../../src/handlers/contract.ts';
import { ACCESS_DENIED, NOT_IMPLEMENTED, UNAVAILABLE } from '../../s3-server/server.ts';
import { BUCKET, cleanup, keysBelow, type Setup, setUp } from './support.ts';

const LONG_AGO = new Date(Date.now() - 3_600_000);

const begin = ({ server }: Setup, key: string, initiated = LONG_AGO) =>
  server.buckets.beginUpload(BUCKET, key, initiated);
const pending = ({ server }: Setup) => server.buckets.uploads(BUCKET).map(({ key }) => key);
const due = (key: string): Cleanup => ({ ...cleanup(key), dueSince: performance.now() });
const run = ({ handler, context }: Setup, ...keys: string[]) => handler.delete(keys.map(due), context);

describe('uploads that were never completed', () => {
  it('go with their key, one by one where few keys are asked about', async () => {
    const setup = await setUp();
    for (const key of ['a', 'a', 'ab', 'b']) begin(setup, key);
    const young = begin(setup, 'a', new Date(Date.now() + 3_600_000));
    const results = await run(setup, 'a', 'c');
    expect(results).toMatchObject([
      { outcome: 'deleted', note: '2 incomplete uploads were aborted' },
      { outcome: 'deleted' },
    ]);
    expect(pending(setup)).toEqual(['a', 'ab', 'b']);
    expect(setup.server.buckets.uploads(BUCKET, 'a')[0]?.uploadId).toBe(young.uploadId);
  });

  it('cost one listing beside the delete where a row comes by itself', async () => {
    const setup = await setUp();
    for (const key of ['a', 'b']) {
      setup.server.forgetRequests();
      await run(setup, key);
      expect(setup.operations().sort()).toEqual(['DeleteObjects', 'ListMultipartUploads']);
    }
    setup.server.forgetRequests();
    await run(setup, ...keysBelow('k/', 16));
    expect(setup.requests('ListMultipartUploads')).toHaveLength(16);
    expect(setup.requests('DeleteObjects')).toHaveLength(1);
  });

  it('cost one listing for many keys, and none for those that were due before it', async () => {
    const setup = await setUp();
    const keys = keysBelow('k/', 500);
    for (const key of ['k/000007', 'k/000300', 'k/000300x', 'other']) begin(setup, key);
    const dues = [...keys, ...keysBelow('m/', 500)].map(due);
    const results = await setup.handler.delete(dues.slice(0, 500), setup.context);
    expect(results.filter(result => 'note' in result && result.note !== undefined)).toHaveLength(2);
    expect(pending(setup)).toEqual(['k/000300x', 'other']);
    // The root's, and two looks at each key that has some.
    expect(setup.requests('ListMultipartUploads')).toHaveLength(5);
    setup.server.forgetRequests();
    await setup.handler.delete(dues.slice(500), setup.context);
    expect(setup.operations()).toEqual(['DeleteObjects']);
    await run(setup, ...keys);
    expect(setup.requests('ListMultipartUploads')).toHaveLength(1);
  });

  it('stay where nobody knows since when the cleanup is due, and where the root says so', async () => {
    const setup = await setUp();
    for (const key of ['a', 'p/a']) begin(setup, key);
    await setup.run('a', 'p/');
    expect(pending(setup)).toEqual(['a', 'p/a']);
    const keeping = await setUp({ uploads: 'keep' });
    for (const key of ['a', 'p/a']) begin(keeping, key);
    await run(keeping, 'a', 'p/');
    expect(pending(keeping)).toEqual(['a', 'p/a']);
    expect(keeping.requests('ListMultipartUploads')).toEqual([]);
  });

  it('go with their prefix over many pages, and are listed again until none is left', async () => {
    const setup = await setUp();
    for (const key of keysBelow('p/', 2300)) begin(setup, key);
    for (const key of ['p', 'p0', 'q/1']) begin(setup, key);
    setup.server.faults.next(
      { kind: 'error', code: 'NoSuchUpload' },
      5,
      ({ operation }) => operation === 'AbortMultipartUpload',
    );
    const [result] = await run(setup, 'p/');
    expect(result).toMatchObject({
      outcome: 'deleted',
      objects: 0,
      note: '2300 incomplete uploads were aborted',
    });
    expect(pending(setup)).toEqual(['p', 'p0', 'q/1']);
  });

  it('are never aborted outside of the prefix, whatever a server lists', async () => {
    const setup = await setUp();
    begin(setup, 'a/10/x');
    const initiated = LONG_AGO.toISOString();
    const upload = `<Upload><Key>a/10/x</Key><UploadId>${setup.server.buckets.uploads(BUCKET)[0]?.uploadId}</UploadId><Initiated>${initiated}</Initiated></Upload>`;
    setup.server.faults.next(
      {
        kind: 'raw',
        status: 200,
        body: `<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>${upload}</ListMultipartUploadsResult>`,
      },
      1,
      ({ operation }) => operation === 'ListMultipartUploads',
    );
    expect(await run(setup, 'a/1/')).toMatchObject([{ outcome: 'absent' }]);
    expect(pending(setup)).toEqual(['a/10/x']);
    expect(setup.requests('AbortMultipartUpload')).toEqual([]);
  });

  it.each([ACCESS_DENIED, NOT_IMPLEMENTED])(
    'that cannot be seen (%j) fail no row, and are not asked for again',
    async fault => {
      const setup = await setUp();
      setup.server.faults.when(({ operation }) => operation === 'ListMultipartUploads', fault);
      for (const keys of [['a', 'p/'], keysBelow('k/', 30)]) {
        for (const result of await run(setup, ...keys)) expect(result.outcome).toMatch(/deleted|absent/);
      }
      expect(setup.requests('ListMultipartUploads')).toHaveLength(1);
    },
  );

  it('that cannot be seen just now are looked for again with the row, which is counted once', async () => {
    const setup = await setUp();
    setup.server.buckets.put(BUCKET, 'a');
    begin(setup, 'a');
    setup.server.faults.next(UNAVAILABLE, 1, ({ operation }) => operation === 'ListMultipartUploads');
    expect(await run(setup, 'a')).toMatchObject([{ outcome: 'unavailable', objects: 0 }]);
    expect(await run(setup, 'a')).toMatchObject([{ outcome: 'deleted', objects: 1 }]);
    expect(pending(setup)).toEqual([]);
  });

  it('that do not go away are told of', async () => {
    const setup = await setUp();
    begin(setup, 'p/a');
    setup.server.faults.when(({ operation }) => operation === 'AbortMultipartUpload', {
      kind: 'raw',
      status: 204,
      body: '',
    });
    expect(await run(setup, 'p/')).toMatchObject([
      { outcome: 'retry', error: expect.stringContaining('still lists uploads of "p/"') },
    ]);
  });
});
