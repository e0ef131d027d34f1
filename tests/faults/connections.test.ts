/**
 * Others have taken all connections when the daemon needs one. Promised: it says so, tries on, and goes on by itself when
 * there is one again; nothing is lost, done twice or burnt.
 */
import pg from 'pg';
import { expect, it, onTestFinished } from 'vitest';
import { migrate } from '../../src/outbox/migrate.ts';
import { createBurst } from '../support/burst.ts';
import { startDaemon } from '../support/daemon.ts';
import { openTestDatabase, type TestDatabase } from '../support/database.ts';
import { createDisk } from '../support/disk.ts';
import { type PostgresServer, startPostgres } from '../support/postgres.ts';
import { startProxy } from '../support/proxy.ts';
import { countEvents, nextEvent, testReconciler, until, untilReady } from '../support/reconciler.ts';

const TOO_MANY = '53300';
const MOST = 20;

/** Takes connections until there are none left, and gives them back. */
async function takeAll(server: PostgresServer, db: Pick<TestDatabase, 'sql'>): Promise<() => Promise<void>> {
  const taken: pg.Client[] = [];
  for (;;) {
    const client = new pg.Client({ connectionString: server.url() });
    client.on('error', () => {});
    try {
      await client.connect();
      taken.push(client);
    } catch (error) {
      expect(error).toMatchObject({ code: TOO_MANY });
      const clients = await db.sql<{ application: string }>(
        "SELECT application_name AS application FROM pg_stat_activity WHERE backend_type = 'client backend'",
      );
      // Some may just be going.
      if (clients.some(({ application }) => application.startsWith('afterdelete'))) continue;
      if (clients.length < MOST) continue;
      return async () => void (await Promise.all(taken.map(each => each.end())));
    }
  }
}

async function setup() {
  const server = await startPostgres({ flags: ['-c', `max_connections=${MOST}`] });
  onTestFinished(() => server.destroy());
  await migrate(server.url());
  const db = openTestDatabase(server.url(), 'postgres');
  onTestFinished(() => db.close());
  return { server, db };
}

it('a daemon whose connections break, and cannot be made anew, goes on when they can', async () => {
  const { server, db } = await setup();
  const proxy = await startProxy(server.url());
  const burst = createBurst(db, { holdAfter: 100 });
  const reconciler = testReconciler({
    databaseUrl: proxy.url,
    handlers: [burst.handler],
    prefetch: 200,
    lease: 2_000,
  });
  const listening = nextEvent(reconciler, 'listen_restored');
  const some = countEvents(reconciler, 'cleanup_done', 50);
  await burst.write(500);
  await reconciler.start();
  await Promise.all([listening, some]);

  proxy.cut();
  const giveBack = await takeAll(server, db);
  const refused = (doing: string) =>
    nextEvent(
      reconciler,
      'trouble',
      event => event.doing.startsWith(doing) && (event.error as { code?: string }).code === TOO_MANY,
    );
  const all = Promise.all([refused('renewing the lease'), refused('settling')]);
  proxy.mend();
  burst.release();
  await all;
  const restored = nextEvent(reconciler, 'listen_restored');
  await giveBack();
  await burst.expectDone();
  await restored;
  await untilReady(reconciler);
});

it('a daemon that is started when there is none left waits for one', async () => {
  const { server, db } = await setup();
  const disk = createDisk();
  await db.sql('SELECT afterdelete.enqueue($1)', [disk.write('a')]);
  const giveBack = await takeAll(server, db);
  const daemon = startDaemon({ databaseUrl: server.url(), roots: [disk.root] });
  expect((await daemon.waitFor('database_unreachable')).error).toContain('takes no connections now');
  await giveBack();
  await daemon.waitFor('started');
  await daemon.waitFor('cleanup_done');
  await until(async () => (await daemon.get('/readyz')).status === 200, 'readyz to be well');
});
