/** What a worker does beside its rows. */
import { describe, expect, it } from 'vitest';
import { createDatabase } from '../support/database.ts';
import { fakeHandler } from '../support/fake-handler.ts';
import { nextEvent, testReconciler, until } from '../support/reconciler.ts';

describe('a row that a live worker does not have in hand', () => {
  it('is found when its claim was committed long after it had been given up', async () => {
    const db = await createDatabase();
    const handler = fakeHandler();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], lease: 1_000 });
    const done = nextEvent(reconciler, 'cleanup_done');
    await reconciler.start();
    // As a claim does that was sent over a connection which is no more, and waited in the server for a lock.
    const client = await db.connect();
    await client.query('BEGIN');
    await client.query("SELECT afterdelete.enqueue('fake://store/a')");
    await client.query(
      "SELECT afterdelete.claim((SELECT id FROM afterdelete.worker), ARRAY['fake://store'], ARRAY[10])",
    );
    await client.query('COMMIT');
    await done;
  });

  it('is found while another of the same claim is still in hand', async () => {
    const db = await createDatabase();
    const handler = fakeHandler();
    const remove = handler.delete;
    handler.delete = async (batch, context) => {
      if (batch.some(({ target }) => target.tree)) await until(() => context.shouldYield(), 'the stop');
      return await remove(batch, context);
    };
    const reconciler = testReconciler({
      databaseUrl: db.url,
      handlers: [handler],
      lease: 1_000,
      slice: 60_000,
    });
    const { outbox } = reconciler;
    const settleDone = outbox.settleDone.bind(outbox);
    let refuse = true;
    outbox.settleDone = async (...args) => {
      if (!refuse) return await settleDone(...args);
      refuse = false;
      throw Object.assign(new Error('value out of range'), { code: '22003' });
    };
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ('fake://store/slow/'), ('fake://store/odd')",
    );
    const done = nextEvent(reconciler, 'cleanup_done', event => event.target.endsWith('odd'));
    await reconciler.start();
    await done;
  });
});

it('the audit trail that somebody keeps locked is not fought for with every heartbeat', async () => {
  const db = await createDatabase();
  const reconciler = testReconciler({ databaseUrl: db.url, handlers: [fakeHandler()], lease: 1_000 });
  let tries = 0;
  reconciler.outbox.maintainHistory = async () => {
    tries += 1;
    throw Object.assign(new Error('canceling statement due to lock timeout'), { code: '55P03' });
  };
  let beats = 0;
  const { heartbeat } = reconciler.outbox;
  reconciler.outbox.heartbeat = async (...args) => {
    beats += 1;
    return await heartbeat.apply(reconciler.outbox, args);
  };
  await reconciler.start();
  await until(() => tries > 0, 'the first try');
  const before = beats;
  await until(() => beats >= before + 3, 'some heartbeats');
  expect(tries).toBe(1);
});

it('a round that is under way when the daemon has stopped goes no further, and is no trouble', async () => {
  const db = await createDatabase();
  const reconciler = testReconciler({ databaseUrl: db.url, handlers: [fakeHandler()], lease: 1_000 });
  const { outbox, events } = reconciler;
  let goOn = () => {};
  const stopped = new Promise<void>(resolve => {
    goOn = resolve;
  });
  const reached = new Promise<void>(resolve => {
    outbox.reap = async () => {
      resolve();
      await stopped;
      throw new Error('driver has already been destroyed');
    };
  });
  await reconciler.start();
  await reached;
  await reconciler.stop();
  const told: unknown[] = [];
  events.on('trouble', event => told.push(event));
  outbox.liveRoots = async () => {
    told.push('the next task');
    return [];
  };
  goOn();
  await new Promise(resolve => setImmediate(resolve));
  expect(told).toEqual([]);
});

describe('a partition that was made after its table was watched', () => {
  it('gets its trigger for TRUNCATE from a daemon; where that fails, it is told once and tried again', async () => {
    const db = await createDatabase();
    await db.sql(`CREATE TABLE samples (id int, k int) PARTITION BY LIST (k);
      SELECT afterdelete.watch('samples', 'fake://store/{id}')`);
    await db.sql(
      'CREATE TABLE samples_1 PARTITION OF samples FOR VALUES IN (1); INSERT INTO samples VALUES (7, 1)',
    );
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [fakeHandler()], lease: 8_000 });
    const client = await db.connect();
    await client.query('BEGIN; LOCK TABLE samples_1 IN ROW EXCLUSIVE MODE');
    const troubles: string[] = [];
    reconciler.events.on('trouble', ({ doing, error }) => troubles.push(`${doing}: ${String(error)}`));
    const failed = nextEvent(reconciler, 'trouble');
    await reconciler.start();
    await failed;
    expect(troubles).toEqual([
      expect.stringMatching(
        /^taking new partitions into their watches: .*the trigger for TRUNCATE on public.samples_1: canceling statement due to lock timeout/,
      ),
    ]);
    await client.query('COMMIT');
    const triggers = () =>
      db.sql("SELECT FROM pg_trigger WHERE tgrelid = 'samples_1'::regclass AND tgname LIKE '%truncate'");
    await until(async () => (await triggers()).length === 1, 'the trigger');
    expect(troubles).toHaveLength(1);
    const deleted = nextEvent(reconciler, 'cleanup_done');
    await db.sql('TRUNCATE samples_1');
    expect((await deleted).target).toBe('fake://store/7');
  });
});
