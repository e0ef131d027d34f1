/** What one store has to do leaves the others' rows alone. Told by counts and order: how fast it is, `bench/fairness.ts` tells. */
import { setTimeout } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import type { Result } from '../../src/handlers/contract.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { type Answer, DELETED, fakeHandler } from '../support/fake-handler.ts';
import { countEvents, nextEvent, testReconciler, until } from '../support/reconciler.ts';

const DOWN: Result = { outcome: 'unavailable', error: 'connection refused', objects: 0, bytes: null };
/** More than a store with a slow handler can do within any test. */
const BACKLOG = 20_000;

/** Writes so many rows of a store: `fake://STORE/NAME…`. */
async function write(db: TestDatabase, store: string, name: string, rows: number, tail = ''): Promise<void> {
  await db.sql(
    'INSERT INTO afterdelete.pending_file_cleanup (target) SELECT $1::text || i || $2 FROM generate_series(1, $3::int) i',
    [`fake://${store}/${name}`, tail, rows],
  );
}

const count = async (db: TestDatabase, query: string, values: unknown[] = []) =>
  (await db.sql<{ n: number }>(`SELECT count(*)::int AS n FROM ${query}`, values))[0]?.n;

/** Rows of a store that have not ended, in one snapshot: they go back and forth meanwhile. */
const left = async (db: TestDatabase, store: string) =>
  await count(
    db,
    `(SELECT store FROM afterdelete.pending_file_cleanup UNION ALL SELECT store FROM afterdelete.running_file_cleanup) r
      WHERE store = $1`,
    [`fake://${store}`],
  );

describe('rows of a store that were written behind a long backlog of another are carried out in between', () => {
  it.each<[string, Answer]>([
    // Four at a time: at most 100 rows a second, however quick the machine.
    ['of a slow store', () => setTimeout(40, DELETED)],
    ['of a store that is down', () => DOWN],
    ['of a store that does not answer', () => new Promise(() => {})],
  ])('%s', async (_, answer) => {
    const db = await createDatabase();
    const handler = fakeHandler((cleanup, context) =>
      cleanup.target.authority === 'a' ? answer(cleanup, context) : DELETED,
    );
    const reconciler = testReconciler({
      databaseUrl: db.url,
      handlers: [handler],
      roots: ['fake://a/', 'fake://b/'],
      concurrency: 4,
      shutdownGrace: 100,
    });
    await write(db, 'a', 'old', BACKLOG);
    await reconciler.start();
    await until(() => handler.seen.length > 0, 'the first row of the backlog');
    for (let round = 1; round <= 5; round++) {
      await write(db, 'b', `round${round}/`, 100);
      await until(async () => (await left(db, 'b')) === 0, `round ${round}`);
    }
    expect(await left(db, 'a')).toBeGreaterThan(BACKLOG / 2);
    expect(
      await count(
        db,
        "afterdelete.done_file_cleanup WHERE target LIKE 'fake://b/%' AND outcome = 'deleted' AND attempt = 1",
      ),
    ).toBe(500);
  });
});

describe('giant trees, more than there are slots,', () => {
  it('yield to the small rows of their own store and of another, however long they take', async () => {
    const GIANTS = 10;
    const db = await createDatabase();
    let endless = true;
    const slices = new Map<string, number>();
    const handler = fakeHandler(async ({ target }, context) => {
      if (!target.tree) return DELETED;
      slices.set(target.text, (slices.get(target.text) ?? 0) + 1);
      if (!endless) return DELETED;
      await until(() => context.shouldYield(), 'the end of the slice');
      return { outcome: 'yielded', objects: 10, bytes: 100 };
    });
    const reconciler = testReconciler({
      databaseUrl: db.url,
      handlers: [handler],
      roots: ['fake://a/', 'fake://b/'],
      concurrency: 2,
      slice: 20,
    });
    // They come first, and they are due before all others.
    await write(db, 'a', 'giant', GIANTS, '/');
    const all = countEvents(reconciler, 'cleanup_done', 400 + GIANTS);
    await reconciler.start();
    await until(() => slices.size > 0, 'the first giant');
    await write(db, 'a', 'small', 200);
    await write(db, 'b', 'small', 200);
    await until(
      async () => (await count(db, 'afterdelete.done_file_cleanup')) === 400,
      'all small rows to be done',
    );
    expect(await left(db, 'a')).toBe(GIANTS);
    // Nor does one giant keep the others waiting.
    await until(
      () => slices.size === GIANTS && [...slices.values()].every(n => n >= 2),
      'two slices for each giant',
    );
    endless = false;
    await all;
    expect(
      await count(
        db,
        "afterdelete.done_file_cleanup WHERE target LIKE '%/' AND attempt = 1 AND objects_deleted > 20",
      ),
    ).toBe(GIANTS);
  });
});

describe('a rate', () => {
  it('is kept by each daemon for itself: what is beyond it stays pending, where another takes it', async () => {
    const db = await createDatabase();
    const [rated, free] = [fakeHandler(), fakeHandler()];
    const roots = ['fake://a/'];
    const first = testReconciler({
      databaseUrl: db.url,
      handlers: [rated],
      roots,
      storeRate: new Map([['fake://a', 1]]),
    });
    await write(db, 'a', '', 500);
    await first.start();
    await until(() => rated.seen.length > 0, 'the first row');
    // Ten seconds' worth in hand, and no more: the rest is pending.
    expect(first.inHand).toBeLessThanOrEqual(10);
    expect(await count(db, 'afterdelete.pending_file_cleanup')).toBeGreaterThan(450);
    const second = testReconciler({ databaseUrl: db.url, handlers: [free], roots });
    await second.start();
    await until(() => free.seen.length > 450, 'the rest');
    expect(await count(db, 'afterdelete.pending_file_cleanup')).toBe(0);
    expect(rated.seen.length).toBeLessThan(50);
  });

  it('counts the objects of a tree: its debt holds up its own store, and no other', async () => {
    const db = await createDatabase();
    const handler = fakeHandler(({ target }) =>
      target.tree ? { outcome: 'deleted', objects: 1_000, bytes: null } : DELETED,
    );
    const reconciler = testReconciler({
      databaseUrl: db.url,
      handlers: [handler],
      roots: ['fake://a/', 'fake://b/'],
      storeRate: new Map([['fake://a', 2]]),
    });
    await write(db, 'a', 'tree', 1, '/');
    const tree = nextEvent(reconciler, 'cleanup_done');
    await reconciler.start();
    await tree;
    const others = countEvents(reconciler, 'cleanup_done', 1_000);
    await write(db, 'a', 'small', 20);
    await write(db, 'b', 'small', 1_000);
    await others;
    // Eight minutes' worth went at once.
    expect(handler.seen.filter(target => target.startsWith('fake://a/'))).toEqual(['fake://a/tree1/']);
    expect(await left(db, 'a')).toBe(20);
  });
});
