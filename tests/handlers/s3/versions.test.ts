import { describe, expect, it } from 'vitest';
import { ACCESS_DENIED, NOT_IMPLEMENTED } from '../../s3-server/server.ts';
import { createTestContext } from '../context.ts';
import { BUCKET, cleanup, keysBelow, ROOT, type Setup, setUp } from './support.ts';

/** A versioned bucket with so many versions of each key, the newest of `hidden` ones a marker. */
async function purging(keys: readonly string[], versions: number, hidden: readonly string[] = []) {
  const setup = await setUp({ versions: 'purge' });
  const { buckets } = setup.server;
  buckets.setVersioning(BUCKET, 'Enabled');
  for (let n = 0; n < versions; n++) for (const key of keys) buckets.put(BUCKET, key, 'ten bytes.');
  for (const key of hidden) buckets.remove(BUCKET, key);
  return setup;
}

const left = ({ server }: Setup) => server.buckets.versions(BUCKET);

describe('versions: purge', () => {
  it('takes the versions of many rows in few requests, the newest of each last', async () => {
    const keys = keysBelow('k/', 100);
    const setup = await purging(keys, 3, keys.slice(50));
    const results = await setup.run(...keys);
    for (const result of results) expect(result).toEqual({ outcome: 'deleted', objects: 3, bytes: 30 });
    expect(left(setup)).toEqual([]);
    // 200 older ones and 50 versions below a marker, then the newest.
    expect(setup.requests('DeleteObjects').map(request => request.keys.length)).toEqual([250, 100]);
  });

  it('takes a key with more versions than a page has, and not what begins like it', async () => {
    const setup = await purging(['k'], 2500, ['k']);
    setup.server.buckets.put(BUCKET, 'k2');
    expect(await setup.runOne('k')).toEqual({ outcome: 'deleted', objects: 2500, bytes: 25_000 });
    expect(left(setup).map(({ key }) => key)).toEqual(['k2']);
  });

  it('takes keys with many versions by themselves, so that a batch of them is not held in memory', async () => {
    const setup = await purging(keysBelow('k/', 3), 150, ['k/000001']);
    setup.server.buckets.put(BUCKET, 'few');
    const results = await setup.run('few', ...keysBelow('k/', 3));
    const many = { outcome: 'deleted', objects: 150, bytes: 1500 };
    expect(results).toMatchObject([{ outcome: 'deleted', objects: 1 }, many, many, many]);
    expect(left(setup)).toEqual([]);
    const largest = Math.max(...setup.requests('DeleteObjects').map(request => request.keys.length));
    expect(largest).toBeLessThanOrEqual(150);
  });

  it('takes a prefix whose keys go on from page to page', async () => {
    const setup = await purging(keysBelow('p/', 7), 700, ['p/000003']);
    expect(await setup.runOne('p/')).toEqual({ outcome: 'deleted', objects: 4900, bytes: 49_000 });
    expect(left(setup)).toEqual([]);
  });

  it.each(['p/', 'p/a'])('of %s brings nothing back to life when something older is locked', async target => {
    const setup = await purging(['p/a'], 3, ['p/a']);
    const [, locked] = left(setup).reverse();
    const lock = { code: 'AccessDenied', message: 'locked' };
    setup.server.faults.perKey((_, version) => (version === locked?.versionId ? lock : undefined));
    expect(await setup.runOne(target)).toMatchObject({ outcome: 'dead', objects: 2, bytes: 20 });
    expect(left(setup)).toMatchObject([
      { isMarker: true, isLatest: true },
      { versionId: locked?.versionId, isLatest: false },
    ]);
    expect(setup.server.buckets.has(BUCKET, 'p/a')).toBe(false);
    setup.server.faults.clear();
    expect(await setup.runOne(target)).toMatchObject({ outcome: 'deleted', objects: 1, bytes: 10 });
    expect(left(setup)).toEqual([]);
  });

  it('brings nothing back to life wherever it is stopped', async () => {
    for (let calls = 0; calls < 8; calls++) {
      const setup = await purging(keysBelow('p/', 3), 800, keysBelow('p/', 3));
      const context = createTestContext();
      context.stopAfter(calls);
      const result = await setup.runOne('p/', context);
      expect(setup.server.buckets.count(BUCKET)).toBe(0);
      expect(result.objects).toBe(2400 - left(setup).filter(({ isMarker }) => !isMarker).length);
      await setup.runOne('p/');
      expect(left(setup)).toEqual([]);
    }
  });

  it('counts a slice that removed markers only as progress', async () => {
    const setup = await setUp({ versions: 'purge' });
    setup.server.buckets.setVersioning(BUCKET, 'Enabled');
    for (const key of keysBelow('p/', 1500)) setup.server.buckets.remove(BUCKET, key);
    const context = createTestContext();
    context.yieldWhen(() => true);
    expect(await setup.runOne('p/', context)).toMatchObject({
      outcome: 'yielded',
      objects: 0,
      progressed: true,
    });
    expect(await setup.runOne('p/')).toMatchObject({ outcome: 'deleted', objects: 0, bytes: 0 });
    expect(left(setup)).toEqual([]);
  });

  it('ends where a server lists what it says is gone', async () => {
    const setup = await purging(keysBelow('p/', 3), 2);
    setup.server.faults.pretendDeletes(key => key === 'p/000001');
    const body = (await setup.runOne('p/')) as { error?: string };
    // One page is a snapshot, and no second look is due; the next run finds it.
    expect(body.error).toBeUndefined();
    const many = await purging(keysBelow('p/', 3), 600);
    many.server.faults.pretendDeletes(key => key === 'p/000001');
    expect(await many.runOne('p/')).toMatchObject({
      outcome: 'retry',
      error: expect.stringContaining('still lists "p/000001"'),
    });
  });

  it('is an outright delete of the only version where a bucket is not versioned', async () => {
    const setup = await setUp({ versions: 'purge' });
    for (const key of ['a', 'p/1']) setup.server.buckets.put(BUCKET, key, '1234');
    expect(await setup.runOne('a')).toEqual({ outcome: 'deleted', objects: 1, bytes: 4 });
    expect(await setup.runOne('p/')).toEqual({ outcome: 'deleted', objects: 1, bytes: 4 });
    expect(setup.server.buckets.count(BUCKET)).toBe(0);
  });

  it('is inspected with all versions', async () => {
    const { handler, context } = await purging(['p/a', 'p/b'], 3, ['p/b']);
    expect(await handler.inspect(cleanup('p/'), context)).toEqual({ exists: true, objects: 6, bytes: 60 });
    expect(await handler.inspect(cleanup('p/b'), context)).toEqual({ exists: true, objects: 3, bytes: 30 });
  });

  it('fails its probe where versions cannot be listed', async () => {
    const { server, handler, context } = await purging(['a'], 1);
    await handler.probe(ROOT, context);
    server.faults.when(({ operation }) => operation === 'ListObjectVersions', ACCESS_DENIED);
    await expect(handler.probe(ROOT, context)).rejects.toThrow('AccessDenied');
  });
});

describe('advice', () => {
  it('is given about versions that stay, and about what cannot be seen', async () => {
    const { server, handler, context } = await setUp();
    expect(await handler.advise?.(ROOT, context)).toEqual([]);
    server.buckets.setVersioning(BUCKET, 'Enabled');
    expect(await handler.advise?.(ROOT, context)).toEqual([
      'its bucket has versioning enabled, and the root says `versions: keep`: deletes here free no space; set `versions: purge`, or a lifecycle rule on the bucket',
    ]);
    server.faults.when(({ operation }) => operation === 'GetBucketVersioning', ACCESS_DENIED);
    server.faults.when(({ operation }) => operation === 'ListMultipartUploads', ACCESS_DENIED);
    expect(await handler.advise?.(ROOT, context)).toEqual([
      expect.stringMatching(
        /could not ask whether .* AccessDenied.*: where it is, deletes here may free no space/,
      ),
      expect.stringMatching(/uploads that were never completed stay here: .*AccessDenied/),
    ]);
  });

  it('is silent where a server knows of no versions', async () => {
    const { server, handler, context } = await setUp();
    server.faults.when(({ operation }) => operation === 'GetBucketVersioning', NOT_IMPLEMENTED);
    expect(await handler.advise?.(ROOT, context)).toEqual([]);
  });
});
