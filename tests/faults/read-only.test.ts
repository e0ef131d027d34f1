/**
 * PostgreSQL turns read-only in the middle of a burst, as it does when its disk is nearly full, before a switch-over, or by
 * somebody's hand. Promised: nothing is lost, done twice or burnt, and the daemon goes on by itself when it can write again.
 */
import { describe, expect, inject, it, onTestFinished } from 'vitest';
import { migrate } from '../../src/outbox/migrate.ts';
import { createBurst } from '../support/burst.ts';
import { createDatabase, openTestDatabase, type TestDatabase } from '../support/database.ts';
import { startPostgres } from '../support/postgres.ts';
import { countEvents, nextEvent, testReconciler, untilReady } from '../support/reconciler.ts';
import { execute } from '../support/server.ts';

/** Plays it: `turn` makes the database read-only, and then writable again. */
async function play(db: TestDatabase, turn: (readOnly: boolean) => Promise<void>): Promise<void> {
  const burst = createBurst(db, { holdAfter: 100 });
  const reconciler = testReconciler({
    databaseUrl: db.url,
    handlers: [burst.handler],
    prefetch: 200,
    // What is held while a heartbeat is awaited may last twice as long, and the lease four times.
    lease: 16_000,
  });
  const lost: unknown[] = [];
  reconciler.events.on('lease_lost', event => lost.push(event));
  const refused = (doing: string) =>
    nextEvent(
      reconciler,
      'trouble',
      ({ doing: done, error }) => done.startsWith(doing) && (error as { code?: string }).code === '25006',
    );
  const some = countEvents(reconciler, 'cleanup_done', 50);
  await burst.write(500);
  await reconciler.start();
  await some;
  const renewing = refused('renewing the lease');
  await turn(true);
  await renewing;
  const settling = refused('settling');
  burst.release();
  await settling;
  await turn(false);
  await burst.expectDone();
  await untilReady(reconciler);
  // Nobody could take its rows over meanwhile, and nobody has.
  expect(lost).toEqual([]);
}

describe('a daemon waits for the end of it, and goes on', () => {
  it('when all of the server is read-only for a while', async () => {
    const server = await startPostgres();
    onTestFinished(() => server.destroy());
    await migrate(server.url());
    const db = openTestDatabase(server.url(), 'postgres');
    onTestFinished(() => db.close());
    await play(db, async readOnly => {
      await db.sql(`ALTER SYSTEM SET default_transaction_read_only = ${readOnly}`);
      await db.sql('SELECT pg_reload_conf()');
    });
  });

  it('when new sessions of its database are, and those that it got meanwhile stay so', async () => {
    const db = await createDatabase();
    await play(db, async readOnly => {
      await execute(
        inject('serverUrl'),
        `ALTER DATABASE ${db.name} SET default_transaction_read_only = ${readOnly}`,
      );
      if (readOnly)
        await db.sql(
          "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'afterdelete%'",
        );
    });
  });
});
