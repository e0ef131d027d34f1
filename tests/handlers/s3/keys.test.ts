import { describe, expect, it } from 'vitest';
import { BUCKET, cleanup, handlerOf, ROOT, setUp, unchecked } from './support.ts';

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
