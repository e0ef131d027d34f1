/**
 * The network to PostgreSQL is half open: connections stand, and nothing passes any more. Promised: it is noticed, nothing is
 * deleted without a lease, nothing is lost or done twice, and the daemon goes on by itself. LISTEN alone: `listener.test.ts`.
 */
import { expect, it } from 'vitest';
import { createBurst } from '../support/burst.ts';
import { createDatabase } from '../support/database.ts';
import { startProxy } from '../support/proxy.ts';
import { countEvents, nextEvent, testReconciler, until, untilReady } from '../support/reconciler.ts';

/** A daemon behind a proxy, in the middle of a burst, that hears notifications. */
async function setup(options: { shutdownGrace?: number } = {}) {
  const db = await createDatabase();
  const proxy = await startProxy(db.url);
  const burst = createBurst(db, { holdAfter: 100 });
  const reconciler = testReconciler({
    databaseUrl: proxy.url,
    handlers: [burst.handler],
    prefetch: 200,
    lease: 1_000,
    ...options,
  });
  const some = countEvents(reconciler, 'cleanup_done', 50);
  const listening = nextEvent(reconciler, 'listen_restored');
  await burst.write(500);
  await reconciler.start();
  await Promise.all([some, listening]);
  return { db, proxy, burst, reconciler };
}

it('a daemon that is cut off in silence finds new connections when there are some, and loses nothing', async () => {
  const { proxy, burst, reconciler } = await setup();
  const unsettled = nextEvent(reconciler, 'trouble', ({ doing }) => doing.startsWith('settling'));
  proxy.freeze();
  burst.release();
  await unsettled;
  proxy.thaw();
  await burst.expectDone();
  await untilReady(reconciler);
});

it('a daemon that is cut off past its lease deletes nothing more; another takes over, and nothing is settled twice', async () => {
  const { db, proxy, burst, reconciler: cutOff } = await setup();
  proxy.freeze();
  const other = testReconciler({ databaseUrl: db.url, handlers: [burst.anotherHandler()], lease: 1_000 });
  const reaped = nextEvent(other, 'reaped');
  await other.start();
  expect((await reaped).workers).toBe(1);
  // Its own deadline is earlier than the database's.
  const seen = burst.handler.seen.length;
  burst.release();
  await burst.expectDone();
  expect(burst.handler.seen).toHaveLength(seen);

  const lost = nextEvent(cutOff, 'lease_lost');
  proxy.thaw();
  await lost;
  await other.stop();
  const done = nextEvent(cutOff, 'cleanup_done');
  await burst.write(1);
  await done;
  await burst.expectDone();
});

it('a daemon that is told to stop while it is cut off ends all the same, and another takes its rows over', async () => {
  const { db, proxy, burst, reconciler: leaving } = await setup({ shutdownGrace: 100 });
  proxy.freeze();
  const stopped = nextEvent(leaving, 'stopped');
  await leaving.stop();
  await stopped;
  burst.release();
  const other = testReconciler({ databaseUrl: db.url, handlers: [burst.anotherHandler()], lease: 1_000 });
  await other.start();
  await burst.expectDone();
  await until(async () => (await db.sql('SELECT FROM afterdelete.worker')).length === 1, 'one worker');
});
