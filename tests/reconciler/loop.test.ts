/** What the claim loop does between rows: how often it looks, when it sleeps, and under which lease. */
import { describe, expect, it } from 'vitest';
import type { Result } from '../../src/handlers/contract.ts';
import type { Reconciler } from '../../src/reconciler/reconciler.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { DELETED, fakeHandler } from '../support/fake-handler.ts';
import { countEvents, nextEvent, testReconciler, until } from '../support/reconciler.ts';

const DOWN: Result = { outcome: 'unavailable', error: 'connection refused', objects: 0, bytes: null };

/** How often the loop wakes up within half a second. */
async function wakeups(reconciler: Reconciler): Promise<number> {
  let count = 0;
  reconciler.events.on('wakeup', () => {
    count += 1;
  });
  await new Promise(resolve => setTimeout(resolve, 500));
  return count;
}

/** A daemon whose store was down when its three rows were tried; they have been cancelled since. */
async function withOpenBreaker(db: TestDatabase) {
  const handler = fakeHandler(() => DOWN);
  handler.batchSize = 1;
  const reconciler = testReconciler({
    databaseUrl: db.url,
    handlers: [handler],
    retryBase: 60_000,
    retryCap: 60_000,
  });
  await db.sql("SELECT afterdelete.enqueue('fake://store/' || i) FROM generate_series(1, 3) i");
  const paused = nextEvent(reconciler, 'store_paused');
  const blocked = countEvents(reconciler, 'cleanup_blocked', 3);
  await reconciler.start();
  await Promise.all([paused, blocked]);
  await db.sql('SELECT afterdelete.cancel(id) FROM afterdelete.pending_file_cleanup');
  // The first probe may be sent half a second after the store was paused.
  await new Promise(resolve => setTimeout(resolve, 600));
  return { handler, reconciler };
}

/** As the reaper of another worker does, for one whose heartbeats did not come. */
async function takeForVanished(db: TestDatabase): Promise<void> {
  await db.sql("UPDATE afterdelete.worker SET lease_until = '-infinity'");
  await db.sql('SELECT afterdelete.reap()');
}

describe('a store that is down and has no row to probe it with', () => {
  it('lets the daemon sleep, and is probed by the next row', async () => {
    const db = await createDatabase();
    const { handler, reconciler } = await withOpenBreaker(db);
    expect(await wakeups(reconciler)).toBeLessThan(20);
    handler.answer = () => DELETED;
    const resumed = nextEvent(reconciler, 'store_resumed');
    await db.sql("SELECT afterdelete.enqueue('fake://store/probe')");
    await resumed;
  });

  it('lets the daemon sleep while an operator has paused it too', async () => {
    const db = await createDatabase();
    const { reconciler } = await withOpenBreaker(db);
    const paused = nextEvent(reconciler, 'store_paused');
    await db.sql("SELECT afterdelete.pause('fake://store')");
    await paused;
    expect(await wakeups(reconciler)).toBeLessThan(20);
  });
});

describe('a store that answers again', () => {
  it('is resumed by a giant target that gets on, though it does not end within its slice', async () => {
    const db = await createDatabase();
    const { handler, reconciler } = await withOpenBreaker(db);
    handler.answer = () => ({ outcome: 'yielded', objects: 5, bytes: 50 });
    const resumed = nextEvent(reconciler, 'store_resumed');
    await db.sql("SELECT afterdelete.enqueue('fake://store/giant/')");
    expect(await resumed).toEqual({ store: 'fake://store', by: 'breaker' });
  });
});

describe('a worker that was taken for vanished', () => {
  it('while nothing ran: runOnce registers it anew, and carries out what it claims', async () => {
    const db = await createDatabase();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [fakeHandler()], lease: 4_000 });
    expect(await reconciler.runOnce()).toBe(0);
    const lost = nextEvent(reconciler, 'lease_lost');
    await takeForVanished(db);
    await lost;
    await db.sql("SELECT afterdelete.enqueue('fake://store/a')");
    expect(await reconciler.runOnce()).toBe(1);
    expect(await db.sql('SELECT FROM afterdelete.done_file_cleanup')).toHaveLength(1);
  });

  it('before it had started: it registers anew, and carries out what it claims', async () => {
    const db = await createDatabase();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [fakeHandler()], lease: 4_000 });
    const liveRoots = reconciler.outbox.liveRoots.bind(reconciler.outbox);
    reconciler.outbox.liveRoots = async () => {
      throw new Error('Connection terminated unexpectedly');
    };
    await expect(reconciler.start()).rejects.toThrow('terminated');
    reconciler.outbox.liveRoots = liveRoots;
    const lost = nextEvent(reconciler, 'lease_lost');
    await takeForVanished(db);
    await lost;
    const done = nextEvent(reconciler, 'cleanup_done');
    await reconciler.start();
    await db.sql("SELECT afterdelete.enqueue('fake://store/a')");
    await done;
  });
});

describe('ready', () => {
  it('does not go on complaining of a claim that failed when all stores have been paused since', async () => {
    const db = await createDatabase();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [fakeHandler()], lease: 4_000 });
    const claim = reconciler.outbox.claim.bind(reconciler.outbox);
    reconciler.outbox.claim = async () => {
      throw new Error('Connection terminated unexpectedly');
    };
    const trouble = nextEvent(reconciler, 'trouble');
    await reconciler.start();
    await trouble;
    expect(await reconciler.ready()).toMatchObject({ ok: false });
    const paused = nextEvent(reconciler, 'store_paused');
    await db.sql("SELECT afterdelete.pause('fake://store')");
    await paused;
    reconciler.outbox.claim = claim;
    await until(async () => (await reconciler.ready()).ok, 'ready');
  });
});
