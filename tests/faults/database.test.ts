/** What happens when PostgreSQL, or the way to it, fails. Promised: nothing is lost, nothing is done twice, no attempt is burnt. */
import { describe, expect, it, onTestFinished } from 'vitest';
import { migrate } from '../../src/outbox/migrate.ts';
import { createDatabase, openTestDatabase, type TestDatabase } from '../support/database.ts';
import { DELETED, fakeHandler } from '../support/fake-handler.ts';
import { startPostgres } from '../support/postgres.ts';
import { startProxy } from '../support/proxy.ts';
import { countEvents, nextEvent, testReconciler, until } from '../support/reconciler.ts';

const ENQUEUE =
  "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'fake://store/' || i FROM generate_series(1, $1::int) i";

/** Every row stands once in the audit trail, none burnt an attempt, none is left. */
async function expectAllDoneOnce(db: TestDatabase, rows: number): Promise<void> {
  await until(
    async () =>
      (await db.sql<{ n: number }>('SELECT count(*)::int AS n FROM afterdelete.done_file_cleanup'))[0]?.n ===
      rows,
    `${rows} done rows`,
  );
  const [audit] =
    await db.sql(`SELECT count(DISTINCT id)::int AS ids, min(attempt) AS least, max(attempt) AS most,
    (SELECT count(*)::int FROM afterdelete.pending_file_cleanup) + (SELECT count(*)::int FROM afterdelete.running_file_cleanup)
      + (SELECT count(*)::int FROM afterdelete.dead_file_cleanup) AS elsewhere FROM afterdelete.done_file_cleanup`);
  expect(audit).toEqual({ ids: rows, least: 1, most: 1, elsewhere: 0 });
}

/** A handler slow enough for something to break meanwhile. */
const slowHandler = () =>
  fakeHandler(async () => {
    await new Promise(resolve => setTimeout(resolve, 1));
    return DELETED;
  });

describe('the server', () => {
  it.each(['fast', 'immediate'] as const)('is restarted (%s) in the middle of a burst', async mode => {
    const server = await startPostgres({ fsync: 'on' });
    onTestFinished(() => server.destroy());
    await migrate(server.url());
    const db = openTestDatabase(server.url(), 'postgres');
    onTestFinished(() => db.close());
    const reconciler = testReconciler({
      databaseUrl: server.url(),
      handlers: [slowHandler()],
      prefetch: 200,
      lease: 2_000,
    });
    const some = countEvents(reconciler, 'cleanup_done', 300);
    await db.sql(ENQUEUE, [2_000]);
    await reconciler.start();
    await some;
    await server.stop(mode);
    await server.start();
    await expectAllDoneOnce(db, 2_000);
    expect(await reconciler.ready()).toEqual({ ok: true });
  });

  it('is not there when the daemon stops: it ends all the same, and another takes its rows over', async () => {
    const server = await startPostgres();
    onTestFinished(() => server.destroy());
    await migrate(server.url());
    const db = openTestDatabase(server.url(), 'postgres');
    onTestFinished(() => db.close());
    const handler = fakeHandler(() => new Promise(() => {}));
    const leaving = testReconciler({
      databaseUrl: server.url(),
      handlers: [handler],
      lease: 1_000,
      shutdownGrace: 100,
    });
    await db.sql(ENQUEUE, [5]);
    await leaving.start();
    await until(() => handler.seen.length === 5, 'the storage calls');
    await server.stop();
    await leaving.stop();
    await server.start();
    const next = testReconciler({ databaseUrl: server.url(), handlers: [fakeHandler()], lease: 1_000 });
    await next.start();
    await expectAllDoneOnce(db, 5);
  });
});

describe('the backends of a daemon', () => {
  it('are terminated again and again during a burst', async () => {
    const db = await createDatabase();
    const reconciler = testReconciler({
      databaseUrl: db.url,
      handlers: [slowHandler()],
      prefetch: 200,
      lease: 2_000,
    });
    await db.sql(ENQUEUE, [3_000]);
    await reconciler.start();
    for (let round = 1; round <= 8; round++) {
      const some = countEvents(reconciler, 'cleanup_done', 200);
      await db.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'afterdelete%'",
      );
      await some;
    }
    await expectAllDoneOnce(db, 3_000);
  });
});

describe('a claim whose answer is lost', () => {
  it('leaves rows that the worker does not know of: it finds them and hands them back', async () => {
    const db = await createDatabase();
    const handler = fakeHandler();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], lease: 1_000 });
    const claim = reconciler.outbox.claim.bind(reconciler.outbox);
    let lose = true;
    // The fault that no proxy times well: committed by the server, and the connection gone before the answer.
    reconciler.outbox.claim = async (...args) => {
      const claimedNow = await claim(...args);
      if (claimedNow.rows.length > 0 && lose) {
        lose = false;
        throw new Error('Connection terminated unexpectedly');
      }
      return claimedNow;
    };
    await db.sql(ENQUEUE, [10]);
    await reconciler.start();
    await expectAllDoneOnce(db, 10);
    expect(handler.seen).toHaveLength(10);
  });
});

describe('a settle whose answer is lost', () => {
  it('is repeated, and nothing is done twice', async () => {
    const db = await createDatabase();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [fakeHandler()] });
    const settleDone = reconciler.outbox.settleDone.bind(reconciler.outbox);
    let lose = true;
    reconciler.outbox.settleDone = async (...args) => {
      const ids = await settleDone(...args);
      if (lose) {
        lose = false;
        throw new Error('Connection terminated unexpectedly');
      }
      return ids;
    };
    const fenced: unknown[] = [];
    reconciler.events.on('cleanup_fenced', event => fenced.push(event));
    const all = countEvents(reconciler, 'cleanup_done', 10);
    await db.sql(ENQUEUE, [10]);
    await reconciler.start();
    await all;
    await expectAllDoneOnce(db, 10);
    expect(fenced).toEqual([]);
  });
});

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
    await db.sql(ENQUEUE, [1]);
    await done;
    const restored = nextEvent(reconciler, 'listen_restored');
    proxy.thaw();
    await restored;
    const notified = nextEvent(reconciler, 'cleanup_done');
    await db.sql(ENQUEUE, [1]);
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
      await db.sql(ENQUEUE, [1]);
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
    await db.sql(ENQUEUE, [1]);
    await done;
  });
});
