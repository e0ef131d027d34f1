import { isDeepStrictEqual } from 'node:util';
import { describe, expect, it } from 'vitest';
import type { Result } from '../../src/handlers/contract.ts';
import { StorageError } from '../../src/handlers/contract.ts';
import { createDatabase } from '../support/database.ts';
import { DELETED, fakeHandler } from '../support/fake-handler.ts';
import { countEvents, nextEvent, testReconciler, until } from '../support/reconciler.ts';

const failure = (
  outcome: 'retry' | 'blocked' | 'dead' | 'unavailable' | 'wrong_root',
  error = 'because',
): Result => ({
  outcome,
  error,
  objects: 0,
  bytes: null,
});

/** A promise and the function that resolves it. */
function gate(): { open: () => void; passed: Promise<void> } {
  let open = () => {};
  const passed = new Promise<void>(resolve => {
    open = resolve;
  });
  return { open, passed };
}

describe('a store that is down', () => {
  it('is paused after a few failures, probed by one row, and costs no attempts', async () => {
    const db = await createDatabase();
    let down = true;
    const handler = fakeHandler(() => (down ? failure('unavailable', 'connection refused') : DELETED));
    handler.batchSize = 1;
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler] });
    const paused = nextEvent(reconciler, 'store_paused');
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'fake://store/' || i FROM generate_series(1, 100) i",
    );
    await reconciler.start();
    expect(await paused).toEqual({ store: 'fake://store', by: 'breaker', reason: 'connection refused' });
    const probed = handler.seen.length;
    // Its rows are to be seen, with the reason, and the pause is on record.
    await until(
      async () => (await db.sql("SELECT FROM afterdelete.stuck WHERE reason = 'paused'")).length === 100,
      'the paused rows',
    );
    const [stuck] = await db.sql<{ last_error: string }>('SELECT last_error FROM afterdelete.stuck LIMIT 1');
    expect(stuck?.last_error).toContain('paused by breaker');
    expect(stuck?.last_error).toContain('connection refused');
    const backlog = async () =>
      JSON.stringify(await db.sql('SELECT paused, pending::int, running::int FROM afterdelete.backlog'));
    // A probe may be under way just now.
    await until(
      async () => (await backlog()) === JSON.stringify([{ paused: true, pending: 100, running: 0 }]),
      async () => `the backlog to be 100 paused rows: it is ${await backlog()}`,
    );
    // Two more probes: one row each.
    await countEvents(reconciler, 'cleanup_blocked', 2);
    expect(handler.seen.length - probed).toBeLessThanOrEqual(3);
    const all = countEvents(reconciler, 'cleanup_done', 100);
    const resumed = nextEvent(reconciler, 'store_resumed');
    down = false;
    expect(await resumed).toEqual({ store: 'fake://store', by: 'breaker' });
    await all;
    const rows = await db.sql('SELECT DISTINCT outcome, attempt FROM afterdelete.done_file_cleanup');
    expect(rows).toEqual([{ outcome: 'deleted', attempt: 1 }]);
  });

  it('does not hold up another store', async () => {
    const db = await createDatabase();
    const handler = fakeHandler(({ target }) =>
      target.authority === 'down' ? failure('unavailable') : DELETED,
    );
    const reconciler = testReconciler({
      databaseUrl: db.url,
      handlers: [handler],
      roots: ['fake://down/', 'fake://up/'],
    });
    const all = countEvents(reconciler, 'cleanup_done', 50);
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'fake://' || s || '/' || i FROM generate_series(1, 50) i, unnest(ARRAY['down', 'up']) s",
    );
    await reconciler.start();
    await all;
  });
});

describe('a busy store', () => {
  it('holds no more rows than its prefetch, and leaves the others alone', async () => {
    const db = await createDatabase();
    const { open, passed } = gate();
    const handler = fakeHandler(async ({ target }) => {
      if (target.authority === 'slow') await passed;
      return DELETED;
    });
    const reconciler = testReconciler({
      databaseUrl: db.url,
      handlers: [handler],
      roots: ['fake://slow/', 'fake://quick/'],
      prefetch: 40,
      concurrency: 4,
    });
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'fake://slow/' || i FROM generate_series(1, 500) i",
    );
    const quick = countEvents(reconciler, 'cleanup_done', 20);
    await reconciler.start();
    await until(() => handler.seen.length === 4, 'four storage calls in flight');
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'fake://quick/' || i FROM generate_series(1, 20) i",
    );
    await quick;
    expect(reconciler.inHand).toBe(40);
    const [{ running }] = (await db.sql(
      "SELECT running::int FROM afterdelete.backlog WHERE store = 'fake://slow'",
    )) as [{ running: number }];
    expect(running).toBe(40);
    const all = countEvents(reconciler, 'cleanup_done', 500);
    open();
    await all;
  });

  it('can be given a concurrency of its own', async () => {
    const db = await createDatabase();
    const { open, passed } = gate();
    const handler = fakeHandler(async () => {
      await passed;
      return DELETED;
    });
    const reconciler = testReconciler({
      databaseUrl: db.url,
      handlers: [handler],
      storeConcurrency: new Map([['fake://store', 3]]),
    });
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'fake://store/' || i FROM generate_series(1, 50) i",
    );
    const all = countEvents(reconciler, 'cleanup_done', 50);
    await reconciler.start();
    await until(() => handler.seen.length === 3, 'three storage calls in flight');
    open();
    await all;
  });
});

describe('operators', () => {
  it('pause a store and resume it, for all daemons', async () => {
    const db = await createDatabase();
    const handler = fakeHandler();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler] });
    const listening = nextEvent(reconciler, 'listen_restored');
    await reconciler.start();
    await listening;
    const paused = nextEvent(reconciler, 'store_paused');
    await db.sql("SELECT afterdelete.pause('fake://store', 'maintenance')");
    expect(await paused).toEqual({ store: 'fake://store', by: 'operator', reason: 'maintenance' });
    await db.sql("SELECT afterdelete.enqueue('fake://store/a')");
    const [stuck] = await db.sql<{ reason: string; last_error: string }>('SELECT * FROM afterdelete.stuck');
    expect(stuck?.reason).toBe('paused');
    expect(stuck?.last_error).toContain("maintenance; afterdelete.resume('fake://store') ends it");
    const resumed = nextEvent(reconciler, 'store_resumed');
    const done = nextEvent(reconciler, 'cleanup_done');
    await db.sql("SELECT afterdelete.resume('fake://store')");
    expect(await resumed).toEqual({ store: 'fake://store', by: 'operator' });
    await done;
    expect(handler.seen).toEqual(['fake://store/a']);
  });

  it('that pause a store get back what has not been started', async () => {
    const db = await createDatabase();
    const { open, passed } = gate();
    const handler = fakeHandler(async () => {
      await passed;
      return DELETED;
    });
    handler.batchSize = 1;
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], concurrency: 2 });
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'fake://store/' || i FROM generate_series(1, 50) i",
    );
    await reconciler.start();
    await until(() => handler.seen.length === 2, 'two storage calls in flight');
    await db.sql("SELECT afterdelete.pause('fake://store')");
    await until(() => reconciler.inHand === 2, 'the others handed back');
    const done = countEvents(reconciler, 'cleanup_done', 2);
    open();
    await done;
    expect(
      await db.sql('SELECT DISTINCT attempt, last_error, put_back FROM afterdelete.pending_file_cleanup'),
    ).toEqual([{ attempt: 0, last_error: null, put_back: null }]);
  });
});

it('a claim that was under way when its store was paused brings rows that are handed back', async () => {
  const db = await createDatabase();
  const handler = fakeHandler();
  const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler] });
  const { outbox } = reconciler;
  const claim = outbox.claim.bind(outbox);
  const { open, passed } = gate();
  let claimed = false;
  outbox.claim = async (...args) => {
    const claimedNow = await claim(...args);
    if (claimedNow.rows.length > 0) {
      claimed = true;
      await passed;
    }
    return claimedNow;
  };
  const listening = nextEvent(reconciler, 'listen_restored');
  await reconciler.start();
  await listening;
  await db.sql("SELECT afterdelete.enqueue('fake://store/' || i) FROM generate_series(1, 50) i");
  await until(() => claimed, 'the claim');
  const paused = nextEvent(reconciler, 'store_paused');
  await db.sql("SELECT afterdelete.pause('fake://store')");
  await paused;
  open();
  await until(
    async () => (await db.sql('SELECT FROM afterdelete.pending_file_cleanup')).length === 50,
    'all handed back',
  );
  expect(handler.seen).toEqual([]);
});

describe('a target', () => {
  it.each([
    ['fake://store/root/', 'is the root fake://store/root/ itself'],
    ['fake://store/root', 'is the root fake://store/root/ itself'],
    ['fake://store/elsewhere', 'is outside every root (fake://store/root/)'],
  ])('%s is dead, nothing is touched, and the message %s', async (target, message) => {
    const db = await createDatabase();
    const handler = fakeHandler();
    const reconciler = testReconciler({
      databaseUrl: db.url,
      handlers: [handler],
      roots: ['fake://store/root/'],
    });
    await db.sql('SELECT afterdelete.enqueue($1)', [target]);
    await reconciler.runOnce();
    const [dead] = await db.sql<{ last_error: string }>('SELECT * FROM afterdelete.dead_file_cleanup');
    expect(dead?.last_error).toContain(message);
    expect(handler.seen).toEqual([]);
  });

  it("inside another live worker's root is left to that one", async () => {
    const db = await createDatabase();
    const [mine, other] = [fakeHandler(), fakeHandler()];
    const a = testReconciler({ databaseUrl: db.url, handlers: [mine], roots: ['fake://store/a/'] });
    const b = testReconciler({ databaseUrl: db.url, handlers: [other], roots: ['fake://store/b/'] });
    await Promise.all([a.start(), b.start()]);
    const done = Promise.all([countEvents(a, 'cleanup_done', 10), countEvents(b, 'cleanup_done', 10)]);
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'fake://store/' || r || '/' || i FROM generate_series(1, 10) i, unnest(ARRAY['a', 'b']) r",
    );
    await done;
    expect(new Set(mine.seen.map(target => target.split('/')[3]))).toEqual(new Set(['a']));
    expect(new Set(other.seen.map(target => target.split('/')[3]))).toEqual(new Set(['b']));
    expect(await db.sql('SELECT DISTINCT attempt, outcome FROM afterdelete.done_file_cleanup')).toEqual([
      { attempt: 1, outcome: 'deleted' },
    ]);
  });

  it('inside the root of a worker that is being replaced waits for the next one', async () => {
    const db = await createDatabase();
    const other = fakeHandler();
    const options = { databaseUrl: db.url, lease: 120_000 };
    const b = testReconciler({ ...options, handlers: [fakeHandler()], roots: ['fake://store/b/'] });
    await b.start();
    const a = testReconciler({ ...options, handlers: [fakeHandler()], roots: ['fake://store/a/'] });
    const listening = nextEvent(a, 'listen_restored');
    await a.start();
    await listening;
    await b.stop();
    // With its heartbeats a learns who is there.
    const beats = async () => (await db.sql('SELECT heartbeat_at FROM afterdelete.worker'))[0];
    for (let n = 0; n < 3; n += 1) {
      const before = await beats();
      await db.sql("SELECT pg_notify('afterdelete', 'pauses')");
      await until(async () => !isDeepStrictEqual(await beats(), before), 'a heartbeat');
    }
    const done = nextEvent(a, 'cleanup_done');
    for (const root of ['b', 'a']) await db.sql('SELECT afterdelete.enqueue($1)', [`fake://store/${root}/1`]);
    expect((await done).target).toBe('fake://store/a/1');
    expect(await db.sql('SELECT target, put_back FROM afterdelete.pending_file_cleanup')).toEqual([
      { target: 'fake://store/b/1', put_back: null },
    ]);
    const next = testReconciler({ ...options, handlers: [other], roots: ['fake://store/b/'] });
    await next.start();
    await until(() => other.seen.length === 1, 'its row');
  });

  it('inside a root of its own is its own, though a root of another live worker contains that', async () => {
    const db = await createDatabase();
    const handler = fakeHandler();
    const inner = testReconciler({ databaseUrl: db.url, handlers: [handler], roots: ['fake://store/a/'] });
    // Another worker that lives and does nothing: say its disk is not mounted.
    await inner.outbox.register({
      name: 'outer',
      version: '0',
      stores: ['fake://store'],
      roots: ['fake://store/'],
      lease: 60_000,
      history: 0,
    });
    await db.sql("SELECT afterdelete.enqueue('fake://store/' || d || '/1') FROM unnest(ARRAY['a', 'b']) d");
    const done = nextEvent(inner, 'cleanup_done');
    await inner.start();
    expect((await done).target).toBe('fake://store/a/1');
    expect(await db.sql('SELECT target FROM afterdelete.pending_file_cleanup')).toEqual([
      { target: 'fake://store/b/1' },
    ]);
  });

  it('of a store that nobody serves waits, to be seen, and is never dead', async () => {
    const db = await createDatabase();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [fakeHandler()] });
    await db.sql("SELECT afterdelete.enqueue('other://store/a')");
    expect(await reconciler.runOnce()).toBe(0);
    const [stuck] = await db.sql<{ reason: string; last_error: string }>(
      'SELECT reason, last_error FROM afterdelete.stuck',
    );
    expect(stuck).toEqual({
      reason: 'unserved',
      last_error: 'no live daemon serves other://store: start one with a root in it',
    });
  });
});

describe('a root with an identity', () => {
  it('that is not the recorded one pauses the store until it is back, and nothing is touched meanwhile', async () => {
    const db = await createDatabase();
    const disk = { identity: '00000000-0000-4000-8000-000000000001' };
    const other = '00000000-0000-4000-8000-000000000002';
    const handler = fakeHandler((_, context) =>
      context.identity('fake://store/') === disk.identity ? DELETED : failure('wrong_root', 'another disk'),
    );
    handler.identify = async () => disk.identity;
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler] });
    await reconciler.start();
    expect(await db.sql('SELECT root, identity FROM afterdelete.file_root')).toEqual([
      { root: 'fake://store/', identity: disk.identity },
    ]);

    const paused = nextEvent(reconciler, 'store_paused');
    disk.identity = other;
    await db.sql("SELECT afterdelete.enqueue('fake://store/a')");
    expect(await paused).toMatchObject({ by: 'root' });
    await until(
      async () =>
        (
          await db.sql(
            "SELECT FROM afterdelete.stuck WHERE reason = 'paused' AND last_error LIKE '%paused by root%'",
          )
        ).length === 1,
      'the paused row',
    );
    const [{ attempt }] = (await db.sql('SELECT attempt FROM afterdelete.pending_file_cleanup')) as [
      { attempt: number },
    ];
    expect(attempt).toBe(0);

    // A person says: this is the disk now.
    const done = nextEvent(reconciler, 'cleanup_done');
    await reconciler.outbox.adoptRoot('fake://store/', other, 'a person');
    expect(await done).toMatchObject({ outcome: 'deleted', attempt: 1 });
  });

  it('that cannot be read at the start pauses the store, and the daemon waits for it', async () => {
    const db = await createDatabase();
    const disk = { mounted: false };
    const handler = fakeHandler();
    handler.identify = async () => {
      if (!disk.mounted) throw new StorageError('wrong_root', 'no such directory');
      return '00000000-0000-4000-8000-000000000001';
    };
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler] });
    await db.sql("SELECT afterdelete.enqueue('fake://store/a')");
    const paused = nextEvent(reconciler, 'store_paused');
    const done = nextEvent(reconciler, 'cleanup_done');
    await reconciler.start();
    expect(await paused).toEqual({ store: 'fake://store', by: 'root', reason: 'no such directory' });
    expect(handler.seen).toEqual([]);
    disk.mounted = true;
    await done;
  });
});

describe('a store with a rate', () => {
  it('is worked on no faster, in batches no larger, and leaves another store alone', async () => {
    const db = await createDatabase();
    const handler = fakeHandler();
    const reconciler = testReconciler({
      databaseUrl: db.url,
      handlers: [handler],
      roots: ['fake://slow/', 'fake://quick/'],
      storeRate: new Map([['fake://slow', 2]]),
    });
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'fake://' || s || '/' || i FROM generate_series(1, 300) i, unnest(ARRAY['slow', 'quick']) s",
    );
    const quick = countEvents(reconciler, 'cleanup_done', 301);
    await reconciler.start();
    await quick;
    // All 300 would take two and a half minutes.
    const slow = handler.seen.filter(target => target.startsWith('fake://slow/')).length;
    expect(slow).toBeGreaterThan(0);
    expect(slow).toBeLessThan(150);
    expect(handler.batches.some(size => size > 2)).toBe(true);
    // Ten seconds' worth is all it has in hand.
    expect(reconciler.inHand).toBeLessThanOrEqual(20);
  });

  it('counts what a tree deletes: it waits between its calls, yields, and is finished', async () => {
    const db = await createDatabase();
    let calls = 0;
    const handler = fakeHandler(undefined, 'fake');
    handler.delete = async ([cleanup], context) => {
      for (let n = 1; n <= 3; n++) {
        await context.call(async () => {
          calls += 1;
        });
        context.progress(cleanup?.id ?? '', { objects: n, bytes: n });
        if (context.shouldYield()) return [{ outcome: 'yielded', objects: n, bytes: n }];
      }
      return [{ outcome: 'deleted', objects: 3, bytes: 3 }];
    };
    const reconciler = testReconciler({
      databaseUrl: db.url,
      handlers: [handler],
      storeRate: new Map([['fake://store', 20]]),
    });
    const done = nextEvent(reconciler, 'cleanup_done');
    await db.sql("SELECT afterdelete.enqueue('fake://store/tree/')");
    await reconciler.start();
    expect(await done).toMatchObject({ outcome: 'deleted', totalObjects: 3, attempt: 1 });
    expect(calls).toBe(3);
  });
});
