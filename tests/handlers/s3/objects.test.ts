import { describe, expect, it } from 'vitest';
import { ACCESS_DENIED } from '../../s3-server/server.ts';
import { BUCKET, cleanup, keysBelow, ROOT, setUp } from './support.ts';

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
    server.buckets.put(BUCKET, 'd');
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
