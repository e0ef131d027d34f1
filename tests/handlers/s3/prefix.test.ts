import { describe, expect, it } from 'vitest';
import { SLOW_DOWN, UNAVAILABLE } from '../../s3-server/server.ts';
import { createTestContext } from '../context.ts';
import { BUCKET, keysBelow, type Setup, setUp } from './support.ts';

const fill = ({ server }: Setup, keys: readonly string[], body = 'ten bytes.') => {
  for (const key of keys) server.buckets.put(BUCKET, key, body);
};

describe('a prefix', () => {
  it('is deleted over many pages, and its objects and bytes are counted', async () => {
    const setup = await setUp();
    fill(setup, keysBelow('p/', 2500));
    fill(setup, ['p', 'p.x', 'p0/x', 'q/1']);
    expect(await setup.runOne('p/')).toEqual({ outcome: 'deleted', objects: 2500, bytes: 25_000 });
    expect(setup.server.buckets.list(BUCKET)).toEqual(['p', 'p.x', 'p0/x', 'q/1']);
    expect(setup.requests('DeleteObjects').map(({ keys }) => keys.length)).toEqual([1000, 1000, 500]);
    // Three pages, and one more look.
    expect(setup.requests('ListObjectsV2')).toHaveLength(4);
    expect(setup.context.reports.get('p/')?.at(-1)).toEqual({ objects: 2500, bytes: 25_000 });
  });

  it('of one page is one listing and one delete', async () => {
    const setup = await setUp();
    fill(setup, keysBelow('p/', 1000));
    expect(await setup.runOne('p/')).toMatchObject({ outcome: 'deleted', objects: 1000 });
    expect(setup.operations()).toEqual(['ListObjectsV2', 'DeleteObjects']);
  });

  it('a/1/ never touches a/10/, even where the server takes the prefix for less', async () => {
    const setup = await setUp();
    const others = ['a/10/x', 'a/1', 'a/1.x', 'b'];
    fill(setup, [...others, 'a/1/x', 'a/1/10/y']);
    const contents = [...others, 'a/1/x', 'a/1/10/y']
      .map(key => `<Contents><Key>${key}</Key><Size>10</Size></Contents>`)
      .join('');
    const body = `<ListBucketResult><IsTruncated>false</IsTruncated>${contents}</ListBucketResult>`;
    setup.server.faults.next(
      { kind: 'raw', status: 200, body },
      1,
      ({ operation }) => operation === 'ListObjectsV2',
    );
    expect(await setup.runOne('a/1/')).toEqual({ outcome: 'deleted', objects: 2, bytes: 20 });
    expect(setup.server.buckets.list(BUCKET)).toEqual([...others].sort());
  });

  it('is absent where a server lists pages of everything else', async () => {
    const setup = await setUp();
    const page = (key: string, next: string) =>
      `<ListBucketResult><IsTruncated>${next !== ''}</IsTruncated><NextContinuationToken>${next}</NextContinuationToken><Contents><Key>${key}</Key><Size>1</Size></Contents></ListBucketResult>`;
    setup.server.faults.next({ kind: 'raw', status: 200, body: page('a', 'more') });
    setup.server.faults.next({ kind: 'raw', status: 200, body: page('b', '') });
    expect(await setup.runOne('p/')).toMatchObject({ outcome: 'absent', objects: 0 });
    expect(setup.operations()).toEqual(['ListObjectsV2', 'ListObjectsV2']);
  });

  it('is decoded only if the answer says that it is encoded', async () => {
    const setup = await setUp();
    fill(setup, ['p/a+b%20c', 'p/a b c']);
    const body =
      '<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>p/a+b%20c</Key><Size>1</Size></Contents></ListBucketResult>';
    setup.server.faults.next(
      { kind: 'raw', status: 200, body },
      1,
      ({ operation }) => operation === 'ListObjectsV2',
    );
    expect(await setup.runOne('p/')).toMatchObject({ outcome: 'deleted', objects: 1 });
    expect(setup.server.buckets.list(BUCKET)).toEqual(['p/a b c']);
  });

  it('under which nothing is stored is absent', async () => {
    const { runOne, operations } = await setUp();
    expect(await runOne('p/')).toEqual({ outcome: 'absent', objects: 0, bytes: 0 });
    expect(operations()).toEqual(['ListObjectsV2']);
  });

  it.each(['<html/>', ''])('is not absent because something else answers: %j', async body => {
    const setup = await setUp();
    fill(setup, ['p/1']);
    setup.server.faults.next({ kind: 'raw', status: 200, body });
    expect(await setup.runOne('p/')).toMatchObject({
      outcome: 'unavailable',
      error: expect.stringContaining('not that of S3'),
    });
  });

  it('of a server that goes down in the middle is gone on with when it is back', async () => {
    const setup = await setUp();
    const { server, runOne } = setup;
    fill(setup, keysBelow('p/', 5500));
    let batches = 0;
    server.faults.next({ kind: 'stop', when: 'before' }, 1, ({ operation }) => {
      if (operation === 'DeleteObjects') batches += 1;
      return batches === 3;
    });
    const first = await runOne('p/');
    expect(first).toMatchObject({ outcome: 'unavailable' });
    expect(first.objects).toBeGreaterThan(0);
    expect(first.objects).toBeLessThan(5500);
    // Never more than the truth; less, where a delete was done and its answer lost with the connection.
    expect(first.objects).toBeLessThanOrEqual(5500 - server.buckets.count(BUCKET));
    await server.start();
    const left = server.buckets.count(BUCKET);
    expect(await runOne('p/')).toMatchObject({ outcome: 'deleted', objects: left, bytes: 10 * left });
    expect(server.buckets.count(BUCKET)).toBe(0);
  });

  it('yields between pages and goes on from where it was', async () => {
    const setup = await setUp();
    fill(setup, keysBelow('p/', 3500));
    const receipts: number[] = [];
    for (let ended = false; !ended; ) {
      const context = createTestContext();
      context.yieldWhen(() => true);
      const result = await setup.runOne('p/', context);
      receipts.push(result.objects);
      ended = result.outcome !== 'yielded';
    }
    expect(receipts).toEqual([1000, 1000, 1000, 500]);
  });

  it('keeps no more than a few pages at the same time', async () => {
    const setup = await setUp();
    fill(setup, keysBelow('p/', 12_000));
    const { server, context } = setup;
    let ahead = 0;
    let pages = 0;
    let deletes = 0;
    // Nothing is deleted before the lister has stopped by itself to wait.
    server.faults.latency(({ operation }) => {
      if (operation === 'ListObjectsV2') pages += 1;
      else deletes += 1;
      ahead = Math.max(ahead, pages - deletes);
      return 0;
    });
    expect(await setup.runOne('p/')).toMatchObject({ outcome: 'deleted', objects: 12_000 });
    expect(ahead).toBeLessThanOrEqual(5);
    expect(context.mostAtOnce).toBeGreaterThan(1);
  });
});

describe('keys under a prefix that cannot be deleted', () => {
  it('do not keep the others from it; the first is named, and all are counted', async () => {
    const setup = await setUp();
    const { server, runOne } = setup;
    fill(setup, keysBelow('p/', 2500));
    const locked = new Set(['p/000003', 'p/001700', 'p/002400']);
    server.faults.perKey(key => (locked.has(key) ? { code: 'AccessDenied', message: 'locked' } : undefined));
    expect(await runOne('p/')).toMatchObject({
      outcome: 'dead',
      objects: 2497,
      bytes: 24_970,
      error: expect.stringMatching(
        /^3 objects under "p\/" could not be deleted \(2497 were\); the first: "p\/\d+": .*AccessDenied: locked/,
      ),
    });
    expect(server.buckets.list(BUCKET)).toEqual([...locked]);
  });

  it('are tried again as long as that may mend one of them', async () => {
    const setup = await setUp();
    const { server, runOne } = setup;
    fill(setup, ['p/1', 'p/2', 'p/3']);
    const errors = new Map([
      ['p/1', { code: 'AccessDenied' }],
      ['p/2', { code: 'InternalError' }],
    ]);
    server.faults.perKey(key => errors.get(key));
    const error = expect.stringMatching(/^2 objects .* the first: "p\/2": .*InternalError/);
    expect(await runOne('p/')).toMatchObject({ outcome: 'retry', objects: 1, error });
    errors.delete('p/2');
    expect(await runOne('p/')).toMatchObject({ outcome: 'dead', objects: 1 });
    errors.clear();
    expect(await runOne('p/')).toMatchObject({ outcome: 'deleted', objects: 1 });
  });

  it('of which only refused keys are left says which and how many, at every attempt', async () => {
    const setup = await setUp();
    fill(setup, keysBelow('p/', 3));
    setup.server.faults.perKey(() => ({ code: 'InternalError', message: 'bad disk' }));
    expect(await setup.runOne('p/')).toEqual({
      outcome: 'retry',
      objects: 0,
      bytes: 0,
      error: expect.stringMatching(
        /^3 objects under "p\/" could not be deleted \(0 were\); the first: "p\/0+": .*bad disk/,
      ),
    });
  });

  it('for now, end the run where a whole page is refused', async () => {
    const setup = await setUp();
    fill(setup, keysBelow('p/', 20_000));
    setup.server.faults.perKey(() => ({ code: 'SlowDown' }));
    expect(await setup.runOne('p/')).toMatchObject({ outcome: 'blocked', objects: 0 });
    expect(setup.requests('DeleteObjects').length).toBeLessThan(8);
  });

  it.each([
    [SLOW_DOWN, 'yielded'],
    [UNAVAILABLE, 'unavailable'],
  ] as const)('since the whole request failed with %j, are left for later', async (fault, outcome) => {
    const setup = await setUp();
    fill(setup, keysBelow('p/', 2000));
    let batches = 0;
    const second = () => ++batches === 2;
    setup.server.faults.next(fault, 1, ({ operation }) => operation === 'DeleteObjects' && second());
    expect(await setup.runOne('p/')).toMatchObject({ outcome, objects: 1000, bytes: 10_000 });
    expect(setup.server.buckets.count(BUCKET)).toBe(1000);
    expect(await setup.runOne('p/')).toMatchObject({ outcome: 'deleted', objects: 1000 });
  });

  it('whose names are no UTF-8 are told of', async () => {
    const { server, runOne } = await setUp();
    const body =
      '<ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated><Contents><Key>p/%FF</Key></Contents></ListBucketResult>';
    server.faults.next({ kind: 'raw', status: 200, body });
    expect(await runOne('p/')).toMatchObject({
      outcome: 'dead',
      error: expect.stringContaining('"p/%FF": its name is not UTF-8'),
    });
  });
});

describe('a server that goes round in circles', () => {
  it.each([0, 1500, 2400])(
    'because it lists key %i after it said that it was deleted is left alone',
    async ghost => {
      const setup = await setUp();
      const keys = keysBelow('p/', 2500);
      fill(setup, keys);
      setup.server.faults.pretendDeletes(key => key === keys[ghost]);
      expect(await setup.runOne('p/')).toMatchObject({
        outcome: 'retry',
        error: expect.stringMatching(/still lists "p\/\d+" after it said that it was deleted/),
      });
      expect(setup.requests('ListObjectsV2').length).toBeLessThan(7);
    },
  );

  it('because it lists the same page for ever is left alone', async () => {
    const setup = await setUp();
    fill(setup, keysBelow('p/', 10));
    for (const token of ['always the same', 'other']) {
      const listing = (next: string) =>
        `<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>${next}</NextContinuationToken><Contents><Key>p/000001</Key><Size>1</Size></Contents></ListBucketResult>`;
      setup.server.forgetRequests();
      const first = setup.server.faults.when(
        ({ operation, query }) => operation === 'ListObjectsV2' && !query.has('continuation-token'),
        { kind: 'raw', status: 200, body: listing('always the same') },
      );
      const further = setup.server.faults.when(({ operation }) => operation === 'ListObjectsV2', {
        kind: 'raw',
        status: 200,
        body: listing(token),
      });
      expect(await setup.runOne('p/')).toMatchObject({
        outcome: 'retry',
        error: expect.stringContaining('lists the same page of "p/" again and again'),
      });
      expect(setup.requests('ListObjectsV2')).toHaveLength(2);
      first();
      further();
    }
  });

  it('does not keep a prefix from what comes while it is deleted', async () => {
    const setup = await setUp();
    fill(setup, keysBelow('p/', 2500));
    // Written behind the lister's back, before what it has already listed.
    setup.context.beforeCall(call => {
      if (call === 3) fill(setup, ['p/!late']);
    });
    expect(await setup.runOne('p/')).toMatchObject({ outcome: 'deleted', objects: 2501 });
    expect(setup.server.buckets.count(BUCKET)).toBe(0);
  });
});
