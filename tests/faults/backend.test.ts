/**
 * The daemon's backend is terminated in the middle of a statement: a lock makes the statement wait, until it can be seen and
 * ended. Promised: it is tried again by itself, the row is done once, and no attempt is burnt.
 */
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { sql } from 'kysely';
import { expect, it } from 'vitest';
import { openDatabase } from '../../src/outbox/database.ts';
import { createBurst } from '../support/burst.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { nextEvent, testReconciler, until } from '../support/reconciler.ts';

/** Terminates the daemon's backend that waits for a lock with a statement like this; how many times it has to come back for it. */
async function terminate(db: TestDatabase, statement: string, times = 2): Promise<void> {
  const ended = new Set<number>();
  await until(async () => {
    const rows = await db.sql<{ pid: number }>(
      // MATERIALIZED: in one WHERE, PostgreSQL may terminate first and look at the database afterwards.
      `WITH waiting AS MATERIALIZED (
         SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'afterdelete%'
            AND wait_event_type = 'Lock' AND query LIKE $1)
       SELECT pid FROM waiting WHERE pg_terminate_backend(pid)`,
      [`%${statement}%`],
    );
    for (const { pid } of rows) ended.add(pid);
    return ended.size >= times;
  }, `${statement} to come back`);
}

/** A daemon with a burst, and a session that holds a lock until told to release it. */
async function setup(options: { lock: string; holdAfter?: number }) {
  const db = await createDatabase();
  const burst = createBurst(db, options);
  const reconciler = testReconciler({ databaseUrl: db.url, handlers: [burst.handler], lease: 10_000 });
  const troubles: string[] = [];
  reconciler.events.on('trouble', ({ doing, error }) =>
    troubles.push(`${doing}: ${(error as { code?: string }).code}`),
  );
  const lost: unknown[] = [];
  reconciler.events.on('lease_lost', event => lost.push(event));
  const client = await db.connect();
  const lock = async () => void (await client.query(`BEGIN; ${options.lock}`));
  const unlock = async () => void (await client.query('COMMIT'));
  const expectDone = async () => {
    await burst.expectDone();
    expect(lost).toEqual([]);
    await until(async () => (await reconciler.ready()).ok, 'the daemon to be ready');
  };
  return { db, burst, reconciler, troubles, lock, unlock, expectDone };
}

it('in a claim: it is rolled back as a whole, and claimed again', async () => {
  const { db, burst, reconciler, troubles, lock, unlock, expectDone } = await setup({
    lock: 'LOCK TABLE afterdelete.running_file_cleanup IN SHARE MODE',
  });
  await reconciler.start();
  await lock();
  await burst.write(20);
  await terminate(db, 'FROM afterdelete.claim(');
  expect(burst.handler.seen).toEqual([]);
  await unlock();
  await expectDone();
  expect(troubles).toContain('claiming: 57P01');
  expect(burst.handler.seen).toHaveLength(20);
});

it('in a settle: it is rolled back as a whole, and settled again; nothing is deleted again', async () => {
  const { db, burst, reconciler, troubles, lock, unlock, expectDone } = await setup({
    lock: 'SELECT FROM afterdelete.running_file_cleanup FOR UPDATE',
    holdAfter: 0,
  });
  await burst.write(20);
  await reconciler.start();
  await until(() => reconciler.inHand === 20, 'the rows in hand');
  await lock();
  burst.release();
  await terminate(db, 'SELECT afterdelete.settle_done(');
  expect(await db.sql('SELECT FROM afterdelete.done_file_cleanup')).toEqual([]);
  await unlock();
  await expectDone();
  expect(troubles.some(text => /^settling \d+ rows: 57P01$/.test(text))).toBe(true);
  expect(burst.handler.seen).toHaveLength(20);
});

it('in a heartbeat: the lease is renewed by the next one, and what is in hand stays there', async () => {
  const { db, burst, reconciler, troubles, lock, unlock, expectDone } = await setup({
    // Claims ask for a weaker lock, and pass.
    lock: 'SELECT FROM afterdelete.worker FOR NO KEY UPDATE',
    holdAfter: 0,
  });
  await burst.write(20);
  const listening = nextEvent(reconciler, 'listen_restored');
  await reconciler.start();
  await Promise.all([listening, until(() => reconciler.inHand === 20, 'the rows in hand')]);
  await lock();
  // A heartbeat is sent at once when it may be that a store was paused.
  await db.sql("SELECT pg_notify('afterdelete', 'pauses')");
  await terminate(db, 'FROM afterdelete.heartbeat(');
  const [before] = await db.sql<{ until: string }>(
    'SELECT lease_until::text AS until FROM afterdelete.worker',
  );
  await unlock();
  await until(
    async () =>
      (await db.sql('SELECT FROM afterdelete.worker WHERE lease_until > $1::timestamptz', [before?.until]))
        .length === 1,
    'a longer lease',
  );
  expect(troubles).toContain('renewing the lease: 57P01');
  burst.release();
  await expectDone();
  expect(burst.handler.seen).toHaveLength(20);
});

it('as soon as it is ready, in the same packet: the query fails, and not the process', async () => {
  const message = (type: string, content: string | Buffer) => {
    const bytes = Buffer.from(content as string, 'latin1');
    const length = Buffer.alloc(4);
    length.writeUInt32BE(4 + bytes.length);
    return Buffer.concat([Buffer.from(type), length, bytes]);
  };
  const fatal = 'SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0';
  // The real server does so when it is told to between its last two messages, which cannot be timed from outside.
  const server = createServer(socket => {
    socket.on('error', () => {});
    socket.once('data', () =>
      socket.end(Buffer.concat([message('R', '\0\0\0\0'), message('Z', 'I'), message('E', fatal)])),
    );
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const { port } = server.address() as AddressInfo;
  const db = openDatabase(`postgresql://nobody@127.0.0.1:${port}/none`);
  try {
    await expect(sql`SELECT 1`.execute(db)).rejects.toThrow(/[Cc]onnection/);
  } finally {
    await db.destroy();
    server.close();
  }
});
