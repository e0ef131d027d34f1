/**
 * PostgreSQL fails over: the address leads to another server. Promised: the daemon finds it by itself, and every row that
 * stands there is done once.
 */
import { randomUUID } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { expect, it, onTestFinished } from 'vitest';
import { migrate } from '../../src/outbox/migrate.ts';
import { createBurst } from '../support/burst.ts';
import { openTestDatabase, type TestDatabase } from '../support/database.ts';
import { fakeHandler } from '../support/fake-handler.ts';
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

it('another server takes over that has not received what was claimed: nothing more of it is carried out', async () => {
  const { first, address, db, second } = await createPair();
  const burst = createBurst(db, { holdAfter: 0 });
  const reconciler = testReconciler({
    databaseUrl: address.url,
    handlers: [burst.handler],
    concurrency: 1,
    prefetch: 100,
    listenUrl: 'off',
  });
  await reconciler.start();
  await first.stop();
  const directory = first.copy();
  await first.start();
  await burst.write(300);
  await until(() => burst.handler.seen.length > 0 && reconciler.inHand === 100, 'rows in hand');
  const server = await second(directory);
  address.moveTo(server.url());
  await first.stop();
  // What was under way is finished; of what waited behind it, this server knows nothing.
  burst.release();
  await until(() => reconciler.inHand === 0, 'the end of what was in hand');
  expect(burst.handler.seen).toHaveLength(10);
  await db.sql("INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ('fake://store/new')");
  await until(() => burst.handler.seen.length === 11, 'the next row');
});

it('another server takes over that has not received why a store is left alone: it is told', async () => {
  const { first, address, db, second } = await createPair();
  const down = { outcome: 'unavailable', objects: 0, bytes: null, error: 'down' } as const;
  const reconciler = testReconciler({
    databaseUrl: address.url,
    handlers: [fakeHandler(() => down)],
    listenUrl: 'off',
    lease: 4_000,
  });
  const paused = async () =>
    (await db.sql("SELECT FROM afterdelete.worker_pause WHERE paused_by = 'breaker'")).length === 1;
  await reconciler.start();
  await first.stop();
  const directory = first.copy();
  await first.start();
  await db.sql(
    "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'fake://store/' || i FROM generate_series(1, 20) i",
  );
  await until(paused, 'the pause on record');
  const server = await second(directory);
  address.moveTo(server.url());
  await first.stop();
  await until(paused, 'the pause on record there');
});

it('another server takes over that has not received which disk a root is: it is told, and no other is taken for it', async () => {
  const { first, address, db, second } = await createPair();
  const handler = fakeHandler();
  const [right, wrong] = [randomUUID(), randomUUID()];
  let disk = right;
  handler.identify = async () => disk;
  const reconciler = testReconciler({
    databaseUrl: address.url,
    handlers: [handler],
    listenUrl: 'off',
    lease: 4_000,
  });
  await first.stop();
  const directory = first.copy();
  await first.start();
  await reconciler.start();
  const identities = async () => await db.sql('SELECT identity FROM afterdelete.file_root');
  expect(await identities()).toEqual([{ identity: right }]);
  const server = await second(directory);
  expect(await identities()).toEqual([]);
  disk = wrong;
  const paused = nextEvent(reconciler, 'store_paused');
  address.moveTo(server.url());
  await first.stop();
  expect(await paused).toMatchObject({
    by: 'root',
    reason: expect.stringContaining('is not the disk it was'),
  });
  await db.sql("INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ('fake://store/1')");
  await countEvents(reconciler, 'wakeup', 3);
  expect(await identities()).toEqual([{ identity: right }]);
  expect(handler.seen).toEqual([]);
  disk = right;
  await until(() => handler.seen.length === 1, 'the row');
});

it('a server that has taken over gives no number of a claim or a worker that the one before gave', async () => {
  const { first, db, second } = await createPair();
  const numbers = async () => {
    const rows = await db.sql<{
      server: string;
      number: string;
      worker: string;
    }>(`SELECT afterdelete.server(), afterdelete.unrepeated() AS number,
      afterdelete.register('w', 'test', ARRAY['fake://store'], ARRAY['fake://store/'], '1 hour', '1 day') AS worker
      FROM generate_series(1, 100)`);
    return rows.flatMap(({ number, worker }) => [number, worker]);
  };
  await first.stop();
  const directory = first.copy();
  await first.start();
  const before = await numbers();
  await second(directory);
  const all = [...before, ...(await numbers())];
  expect(all).toHaveLength(400);
  expect(new Set(all).size).toBe(400);
  for (const number of all) expect(Number.isSafeInteger(Number(number))).toBe(true);
});

async function inHand(db: Pair['db']): Promise<number> {
  const [row] = await db.sql<{ n: number }>(
    'SELECT count(*)::int AS n FROM afterdelete.running_file_cleanup',
  );
  return row?.n ?? 0;
}
