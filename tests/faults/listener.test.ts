/** LISTEN dies, in silence or not. Promised: it is noticed and said, the daemon polls meanwhile, and no row waits for the poll. */
import { describe, it } from 'vitest';
import { createDatabase } from '../support/database.ts';
import { fakeHandler } from '../support/fake-handler.ts';
import { startProxy } from '../support/proxy.ts';
import { nextEvent, testReconciler } from '../support/reconciler.ts';

const ENQUEUE = "SELECT afterdelete.enqueue('fake://store/a')";

describe('the listener', () => {
  it('is silently dead: noticed, said, polled meanwhile, and restored', async () => {
    const db = await createDatabase();
    const proxy = await startProxy(db.url);
    const reconciler = testReconciler({
      databaseUrl: db.url,
      listenUrl: proxy.url,
      handlers: [fakeHandler()],
      poll: 300_000,
    });
    const listening = nextEvent(reconciler, 'listen_restored');
    await reconciler.start();
    await listening;
    const lost = nextEvent(reconciler, 'listen_lost');
    proxy.freeze();
    await lost;
    // Nobody hears of it, and a poll of five minutes would be too late: without LISTEN it polls every second.
    const done = nextEvent(reconciler, 'cleanup_done');
    await db.sql(ENQUEUE);
    await done;
    const restored = nextEvent(reconciler, 'listen_restored');
    proxy.thaw();
    await restored;
    const notified = nextEvent(reconciler, 'cleanup_done');
    await db.sql(ENQUEUE);
    await notified;
  });

  it('is terminated with a row written before it is back: the row is found', async () => {
    const db = await createDatabase();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [fakeHandler()], poll: 300_000 });
    const listening = nextEvent(reconciler, 'listen_restored');
    await reconciler.start();
    await listening;
    for (let round = 0; round < 3; round++) {
      const restored = nextEvent(reconciler, 'listen_restored');
      const done = nextEvent(reconciler, 'cleanup_done');
      await db.sql(
        `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'`,
      );
      await db.sql(ENQUEUE);
      await Promise.all([done, restored]);
    }
  });

  it('that hears nothing though LISTEN succeeded is not relied on', async () => {
    const db = await createDatabase();
    const other = await createDatabase();
    // Another database's notifications never arrive here: as behind a transaction pooler, LISTEN works and stays silent.
    const reconciler = testReconciler({
      databaseUrl: db.url,
      listenUrl: other.url,
      handlers: [fakeHandler()],
      poll: 300_000,
    });
    await reconciler.start();
    const done = nextEvent(reconciler, 'cleanup_done');
    await db.sql(ENQUEUE);
    await done;
  });
});
