/** What happens when PostgreSQL, or the way to it, fails. Promised: nothing is lost, nothing is done twice, no attempt is burnt. */
import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { Handler } from '../../src/handlers/contract.ts';
import { migrate } from '../../src/outbox/migrate.ts';
import type { Reconciler } from '../../src/reconciler/reconciler.ts';
import { openOutbox, states } from '../outbox/rows.ts';
import { createBurst } from '../support/burst.ts';
import { createDatabase, openTestDatabase } from '../support/database.ts';
import { fakeHandler } from '../support/fake-handler.ts';
import { startPostgres } from '../support/postgres.ts';
import { countEvents, nextEvent, testReconciler, until, untilReady } from '../support/reconciler.ts';

/** A server of its own, to be broken, with the schema in it. */
async function startServer(options: Parameters<typeof startPostgres>[0] = {}) {
  const server = await startPostgres(options);
  onTestFinished(() => server.destroy());
  await migrate(server.url());
  const db = openTestDatabase(server.url(), 'postgres');
  onTestFinished(() => db.close());
  return { server, db };
}

describe('the server', () => {
  it.each(['fast', 'immediate'] as const)('is restarted (%s) in the middle of a burst', async mode => {
    const { server, db } = await startServer({ fsync: 'on' });
    const burst = createBurst(db);
    const reconciler = testReconciler({
      databaseUrl: server.url(),
      handlers: [burst.handler],
      prefetch: 200,
      lease: 2_000,
    });
    const some = countEvents(reconciler, 'cleanup_done', 300);
    await burst.write(2_000);
    await reconciler.start();
    await some;
    await server.stop(mode);
    await server.start();
    await burst.expectDone();
    await untilReady(reconciler);
  });

  it.each([
    ['is back', true],
    ['is still away', false],
  ])(
    'is restarted while claimed rows wait their turn, which comes when it %s: none is blocked for it',
    async (_, back) => {
      const { server, db } = await startServer();
      const burst = createBurst(db, { holdAfter: 0 });
      const reconciler = testReconciler({
        databaseUrl: server.url(),
        handlers: [burst.handler],
        concurrency: 1,
        prefetch: 100,
        // The guard is asked before any heartbeat.
        lease: 60_000,
      });
      const blocked: unknown[] = [];
      reconciler.events.on('cleanup_blocked', event => blocked.push(event));
      await burst.write(100);
      await reconciler.start();
      await until(() => burst.handler.seen.length > 0 && reconciler.inHand === 100, 'rows in hand');
      await server.stop('immediate');
      if (back) await server.start();
      const asked = nextEvent(reconciler, 'trouble', ({ doing }) => doing.startsWith('asking the guard'));
      burst.release();
      await asked;
      if (!back) await server.start();
      await burst.expectDone();
      expect(blocked).toEqual([]);
    },
  );

  it('is restarted under a program that runs a daemon once and again: it compares the roots, and goes on', async () => {
    const { server, db } = await startServer();
    const handler: Handler = fakeHandler();
    const identity = randomUUID();
    handler.identify = async () => identity;
    const reconciler = testReconciler({ databaseUrl: server.url(), handlers: [handler], lease: 2_000 });
    await reconciler.runOnce();
    await server.stop('immediate');
    await server.start();
    const beaten = 'SELECT heartbeat_at > pg_postmaster_start_time() AS beaten FROM afterdelete.worker';
    await until(async () => (await db.sql<{ beaten: boolean }>(beaten))[0]?.beaten === true, 'a heartbeat');
    await db.sql("SELECT afterdelete.enqueue('fake://store/a')");
    await until(async () => (await reconciler.runOnce()) === 1, 'the row');
  });

  it('is away for longer than the leases of two daemons with roots of their own: neither buries rows of the other', async () => {
    const { server, db } = await startServer();
    // From the server's start on, a slow machine must have renewed them within one.
    const lease = 5_000;
    const daemons = ['a', 'b'].map(name => {
      const handlers = [fakeHandler()];
      return testReconciler({
        databaseUrl: server.url(),
        handlers,
        roots: [`fake://store/${name}/`],
        lease,
        name,
      });
    });
    for (const daemon of daemons) await daemon.start();
    await db.sql(`INSERT INTO afterdelete.pending_file_cleanup (target, run_at)
      SELECT 'fake://store/' || name || '/' || i, clock_timestamp() + interval '6 seconds'
        FROM unnest(ARRAY['a', 'b']) AS name, generate_series(1, 200) i`);
    await server.stop('immediate');
    // The other one comes back last.
    const [first, last] = daemons as [Reconciler, Reconciler];
    const done = countEvents(first, 'cleanup_done', 200);
    const { outbox } = last;
    const { heartbeat, claim } = outbox;
    outbox.heartbeat = async (...args) => {
      await done;
      return await heartbeat.apply(outbox, args);
    };
    outbox.claim = async (...args) => {
      await done;
      return await claim.apply(outbox, args);
    };
    // Their leases end, and the rows fall due.
    await setTimeout(lease + 2_000);
    await server.start();
    await until(
      async () => (await states(db)).done === 400,
      async () => `400 done rows: there are ${JSON.stringify(await states(db))}`,
    );
    const workers = await db.sql<{ worker: string; n: number }>(
      "SELECT worker || split_part(target, '/', 4) AS worker, count(*)::int AS n FROM afterdelete.done_file_cleanup GROUP BY 1 ORDER BY 1",
    );
    expect(workers).toEqual([
      { worker: 'aa', n: 200 },
      { worker: 'bb', n: 200 },
    ]);
  });

  // COMMIT that does not wait for the disk is visible before it is there: the claim's, and that of the transaction before it.
  it.each(['on', 'off'])(
    'crashes right after it has answered a claim (synchronous_commit %s): what may be deleted by then stays deleted',
    async mode => {
      const { server, db } = await startServer({ fsync: 'on' });
      await db.sql('CREATE TABLE uploads (id int PRIMARY KEY)');
      await db.sql("SELECT afterdelete.watch('uploads', 'fake://store/{id}')");
      await db.sql('INSERT INTO uploads VALUES (1)');
      const { outbox } = openOutbox(server.url());
      const times = { lease: 3_600_000, history: 86_400_000 };
      const served = { stores: ['fake://store'], roots: ['fake://store/'] };
      const worker = await outbox.register({ name: 'w', version: 'test', ...served, ...times });
      await db.sql(`ALTER DATABASE postgres SET synchronous_commit = ${mode}`);
      const fresh = openOutbox(server.url()).outbox;
      const writer = await db.connect();
      onTestFinished(() => writer.end().catch(() => {}));
      await writer.query('DELETE FROM uploads');
      const { rows } = await fresh.claim(worker, new Map([['fake://store', 1]]));
      await server.stop('immediate');
      await server.start();
      expect(rows.map(row => row.target)).toEqual(['fake://store/1']);
      expect(await db.sql('SELECT FROM uploads')).toEqual([]);
      expect(await states(db)).toMatchObject({ pending: 0, running: 1 });
      await expect(db.sql('SELECT afterdelete.confirm($1)', [rows[0]?.id])).rejects.toThrow(
        'no longer pending',
      );
    },
  );

  it('is not there when the daemon stops: it ends all the same, and another takes its rows over', async () => {
    const { server, db } = await startServer();
    const burst = createBurst(db);
    const hanging = fakeHandler(() => new Promise(() => {}));
    const leaving = testReconciler({
      databaseUrl: server.url(),
      handlers: [hanging],
      lease: 1_000,
      shutdownGrace: 100,
    });
    await burst.write(5);
    await leaving.start();
    await until(() => hanging.seen.length === 5, 'the storage calls');
    await server.stop();
    await leaving.stop();
    await server.start();
    const next = testReconciler({ databaseUrl: server.url(), handlers: [burst.handler], lease: 1_000 });
    await next.start();
    await burst.expectDone();
  });
});

describe('the backends of a daemon', () => {
  it('are terminated again and again during a burst', async () => {
    const db = await createDatabase();
    const burst = createBurst(db);
    const reconciler = testReconciler({
      databaseUrl: db.url,
      handlers: [burst.handler],
      prefetch: 200,
      lease: 2_000,
    });
    await burst.write(3_000);
    await reconciler.start();
    for (let round = 1; round <= 8; round++) {
      const some = countEvents(reconciler, 'cleanup_done', 200);
      await db.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'afterdelete%'",
      );
      await some;
    }
    await burst.expectDone();
  });
});

describe('a claim whose answer is lost', () => {
  it('leaves rows that the worker does not know of: it finds them and hands them back', async () => {
    const db = await createDatabase();
    const burst = createBurst(db);
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [burst.handler], lease: 1_000 });
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
    await burst.write(10);
    await reconciler.start();
    await burst.expectDone();
    expect(burst.handler.seen).toHaveLength(10);
  });
});

describe('a settle whose answer is lost', () => {
  it('is repeated, and nothing is done twice', async () => {
    const db = await createDatabase();
    const burst = createBurst(db);
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [burst.handler] });
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
    await burst.write(10);
    await reconciler.start();
    await all;
    await burst.expectDone();
    expect(fenced).toEqual([]);
  });
});
