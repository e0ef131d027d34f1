/**
 * PostgreSQL fails over: the address leads to another server. Promised: the daemon finds it by itself, and every row that
 * stands there is done once.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { it, onTestFinished } from 'vitest';
import { migrate } from '../../src/outbox/migrate.ts';
import { createBurst } from '../support/burst.ts';
import { openTestDatabase, type TestDatabase } from '../support/database.ts';
import { type PostgresServer, startPostgres } from '../support/postgres.ts';
import { startProxy, type Proxy as TcpProxy } from '../support/proxy.ts';
import { countEvents, nextEvent, testReconciler, until, untilReady } from '../support/reconciler.ts';

interface Pair {
  readonly first: PostgresServer;
  readonly address: TcpProxy;
  /** The database of the server that is in charge. */
  readonly db: Pick<TestDatabase, 'sql'>;
  /** The server that takes over, with the data of that directory. */
  second(directory: string): Promise<PostgresServer>;
}

async function createPair(): Promise<Pair> {
  const open = (server: PostgresServer) => {
    onTestFinished(() => server.destroy());
    const db = openTestDatabase(server.url(), 'postgres');
    onTestFinished(() => db.close());
    return db;
  };
  const first = await startPostgres();
  let inCharge = open(first);
  await migrate(first.url());
  return {
    first,
    address: await startProxy(first.url()),
    db: { sql: (text, values) => inCharge.sql(text, values) },
    second: async directory => {
      const server = await startPostgres({ directory });
      inCharge = open(server);
      return server;
    },
  };
}

it('the server dies, and one that had not received the last transactions takes over: what is open there is done there', async () => {
  const { first, address, db, second } = await createPair();
  const burst = createBurst(db, { holdAfter: 200 });
  const reconciler = testReconciler({
    databaseUrl: address.url,
    handlers: [burst.handler],
    prefetch: 200,
    lease: 2_000,
  });
  const some = countEvents(reconciler, 'cleanup_done', 150);
  const more = countEvents(reconciler, 'cleanup_done', 400);
  await burst.write(600);
  await reconciler.start();
  await some;
  await first.stop();
  const directory = first.copy();
  await first.start();
  burst.release();
  await more;
  await first.stop('immediate');
  address.moveTo((await second(directory)).url());
  await burst.expectDone();
  await untilReady(reconciler);
});

it('the old server comes back as a standby: the daemon does not stay with it, though it answers', async () => {
  const { first, address, db, second } = await createPair();
  const burst = createBurst(db, { holdAfter: 100 });
  const reconciler = testReconciler({
    databaseUrl: address.url,
    handlers: [burst.handler],
    prefetch: 200,
    lease: 2_000,
    poll: 300_000,
  });
  const some = countEvents(reconciler, 'cleanup_done', 50);
  const listening = nextEvent(reconciler, 'listen_restored');
  await burst.write(500);
  await reconciler.start();
  await Promise.all([some, listening]);

  const deaf = nextEvent(reconciler, 'listen_lost');
  const refused = nextEvent(
    reconciler,
    'trouble',
    ({ error }) => (error as { code?: string }).code === '25006',
  );
  await first.stop();
  const directory = first.copy();
  writeFileSync(join(first.directory, 'data', 'standby.signal'), '');
  await first.start();
  const promoted = await second(directory);
  // For as long as names are cached, the address leads to the old server: it answers, and takes no writes.
  await Promise.all([refused, deaf]);
  const restored = nextEvent(reconciler, 'listen_restored');
  address.moveTo(promoted.url());
  burst.release();
  await restored;
  await burst.write(1);
  await burst.expectDone();
  await untilReady(reconciler);
});

it('another server takes over between two statements, so that none fails: rows that come back with it are found', async () => {
  const { first, address, db, second } = await createPair();
  const burst = createBurst(db, { holdAfter: 0 });
  const reconciler = testReconciler({
    databaseUrl: address.url,
    handlers: [burst.handler],
    prefetch: 100,
    // As behind a pooler: between two polls no connection is in use.
    listenUrl: 'off',
  });
  await burst.write(300);
  await reconciler.start();
  await until(async () => (await inHand(db)) === 100, '100 rows in hand');
  await first.stop();
  const directory = first.copy();
  await first.start();
  burst.release();
  await burst.expectDone();
  // What has come since then, the second server does not have; claims no longer begin where the burst did.
  const later = countEvents(reconciler, 'cleanup_done', 20);
  for (let n = 0; n < 20; n += 1) {
    await db.sql("INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ('fake://store/later')");
    await setTimeout(50);
  }
  await later;
  const server = await second(directory);
  address.moveTo(server.url());
  await first.stop();
  await burst.expectDone();
  await untilReady(reconciler);
});

async function inHand(db: Pair['db']): Promise<number> {
  const [row] = await db.sql<{ n: number }>(
    'SELECT count(*)::int AS n FROM afterdelete.running_file_cleanup',
  );
  return row?.n ?? 0;
}
