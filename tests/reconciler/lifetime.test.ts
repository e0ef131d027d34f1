import { describe, expect, it } from 'vitest';
import { createReconciler } from '../../src/reconciler/reconciler.ts';
import { createDatabase } from '../support/database.ts';
import { DELETED, fakeHandler } from '../support/fake-handler.ts';
import { countEvents, nextEvent, testReconciler, until } from '../support/reconciler.ts';

/** Marks rows as lost so often, as if their workers had vanished. */
const LOSE = 'UPDATE afterdelete.pending_file_cleanup SET lost = $1 WHERE target = ANY ($2)';

describe('stop', () => {
  it('finishes what runs, hands back what does not, and leaves nothing of itself', async () => {
    const db = await createDatabase();
    let open = () => {};
    const gate = new Promise<void>(resolve => {
      open = resolve;
    });
    const handler = fakeHandler(async () => {
      await gate;
      return DELETED;
    });
    handler.batchSize = 1;
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], concurrency: 3 });
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'fake://store/' || i FROM generate_series(1, 20) i",
    );
    await reconciler.start();
    await until(() => handler.seen.length === 3, 'three storage calls in flight');
    const stopping = nextEvent(reconciler, 'stopping');
    const stopped = reconciler.stop();
    await stopping;
    await until(() => reconciler.inHand === 3, 'the others handed back');
    open();
    await stopped;
    expect(handler.seen).toHaveLength(3);
    const [counts] = await db.sql(`SELECT (SELECT count(*)::int FROM afterdelete.done_file_cleanup) AS done,
      (SELECT count(*)::int FROM afterdelete.pending_file_cleanup WHERE attempt = 0 AND lost = 0 AND put_back IS NULL) AS pending,
      (SELECT count(*)::int FROM afterdelete.running_file_cleanup) AS running, (SELECT count(*)::int FROM afterdelete.worker) AS workers`);
    expect(counts).toEqual({ done: 3, pending: 17, running: 0, workers: 0 });
    await until(
      async () =>
        (
          await db.sql(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'afterdelete%'",
          )
        ).length === 0,
      'no connection left',
    );
  });

  it('hands back what does not end within the grace: no attempt, nothing lost', async () => {
    const db = await createDatabase();
    const handler = fakeHandler(() => new Promise(() => {}));
    const reconciler = createReconciler({
      databaseUrl: db.url,
      handlers: [handler],
      roots: ['fake://store/'],
      shutdownGrace: 50,
    });
    await db.sql("SELECT afterdelete.enqueue('fake://store/a')");
    await reconciler.start();
    await until(() => handler.seen.length === 1, 'the storage call');
    const stopped = nextEvent(reconciler, 'stopped');
    await reconciler.stop();
    expect(await stopped).toEqual({ handedBack: 1 });
    expect(await db.sql('SELECT attempt, lost, put_back FROM afterdelete.pending_file_cleanup')).toEqual([
      { attempt: 0, lost: 0, put_back: null },
    ]);
  });

  it('makes a giant target yield, with what it has deleted, and claims nothing more, wherever its loop is', async () => {
    const db = await createDatabase();
    const handler = fakeHandler(async ({ id }, context) => {
      context.progress(id, { objects: 7, bytes: 70 });
      await until(() => context.shouldYield(), 'the stop');
      return { outcome: 'yielded', objects: 7, bytes: 70 };
    });
    // A grace that a machine under load cannot use up.
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], shutdownGrace: 25_000 });
    const row = async () =>
      (
        await db.sql(
          'SELECT attempt, put_back, objects_deleted, bytes_freed FROM afterdelete.pending_file_cleanup',
        )
      )[0];
    // The question before the last claim of a turn, answered when the row is back.
    const { outbox } = reconciler;
    const { nextDue } = outbox;
    outbox.nextDue = async stores => {
      if (handler.seen.length > 0) await until(async () => (await row()) !== undefined, 'the yielded row');
      return await nextDue.call(outbox, stores);
    };
    await db.sql("SELECT afterdelete.enqueue('fake://store/giant/')");
    await reconciler.start();
    await until(() => handler.seen.length === 1, 'the storage call');
    const stopped = nextEvent(reconciler, 'stopped');
    await reconciler.stop();
    expect(await stopped).toEqual({ handedBack: 1 });
    expect(await row()).toEqual({
      attempt: 0,
      put_back: 'yielded',
      objects_deleted: '7',
      bytes_freed: '70',
    });
  });

  it('wakes another daemon for what it hands back', async () => {
    const db = await createDatabase();
    const handler = fakeHandler(() => new Promise(() => {}));
    const leaving = testReconciler({
      databaseUrl: db.url,
      handlers: [handler],
      shutdownGrace: 0,
      prefetch: 1,
      concurrency: 1,
    });
    await db.sql("SELECT afterdelete.enqueue('fake://store/a')");
    await leaving.start();
    await until(() => handler.seen.length === 1, 'the storage call');
    // It would not find out by itself within the time of this test.
    const staying = testReconciler({ databaseUrl: db.url, handlers: [fakeHandler()], poll: 300_000 });
    const listening = nextEvent(staying, 'listen_restored');
    await staying.start();
    await listening;
    const done = nextEvent(staying, 'cleanup_done');
    await leaving.stop();
    await done;
  });
});

describe('the lease', () => {
  it('that is lost ends all storage calls; the worker registers anew and goes on', async () => {
    const db = await createDatabase();
    let open = () => {};
    const gate = new Promise<void>(resolve => {
      open = resolve;
    });
    let first = true;
    const handler = fakeHandler(async () => {
      if (first) {
        first = false;
        await gate;
      }
      return DELETED;
    });
    const reconciler = testReconciler({
      databaseUrl: db.url,
      handlers: [handler],
      lease: 8_000,
      concurrency: 1,
    });
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'fake://store/' || i FROM generate_series(1, 5) i",
    );
    await reconciler.start();
    await until(() => handler.seen.length === 1, 'the first storage call');
    const lost = nextEvent(reconciler, 'lease_lost');
    // As the reaper of another worker does, for one whose heartbeats did not come.
    await db.sql("UPDATE afterdelete.worker SET lease_until = '-infinity'");
    await db.sql('SELECT afterdelete.reap()');
    expect((await lost).inHand).toBe(5);
    open();
    await until(
      async () => (await db.sql('SELECT FROM afterdelete.done_file_cleanup')).length === 5,
      'all five done',
    );
    // Each once, though the first was under way twice.
    expect(
      await db.sql(
        'SELECT count(DISTINCT id)::int AS ids, count(*)::int AS rows FROM afterdelete.done_file_cleanup',
      ),
    ).toEqual([{ ids: 5, rows: 5 }]);
    expect(handler.seen).toHaveLength(6);
  });

  it('of a vanished worker ends, and its rows are taken over without an attempt', async () => {
    const db = await createDatabase();
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'fake://store/' || i FROM generate_series(1, 5) i",
    );
    const [{ id }] = (await db.sql(
      "SELECT afterdelete.register('gone', '0', ARRAY['fake://store'], ARRAY['fake://store/'], '1 minute', '1 day') AS id",
    )) as [{ id: string }];
    await db.sql("SELECT afterdelete.claim($1, ARRAY['fake://store'], ARRAY[10])", [id]);
    await db.sql("UPDATE afterdelete.worker SET lease_until = '-infinity' WHERE id = $1", [id]);
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [fakeHandler()], lease: 4_000 });
    const reaped = nextEvent(reconciler, 'reaped');
    const done = countEvents(reconciler, 'cleanup_done', 5);
    await reconciler.start();
    expect(await reaped).toEqual({ workers: 1, moved: 5, died: 0 });
    await done;
    expect(await db.sql('SELECT DISTINCT attempt FROM afterdelete.done_file_cleanup')).toEqual([
      { attempt: 1 },
    ]);
  });
});

describe('a row that was lost three times', () => {
  it('runs with nothing else in hand, and its innocent neighbours do too', async () => {
    const db = await createDatabase();
    const inHand: [string, number][] = [];
    const handler = fakeHandler(({ target }) => {
      inHand.push([target.text, reconciler.inHand]);
      return DELETED;
    });
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], lease: 8_000 });
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'fake://store/' || i FROM generate_series(1, 100) i",
    );
    const suspects = ['fake://store/10', 'fake://store/20', 'fake://store/30'];
    await db.sql(LOSE, [3, suspects]);
    const all = countEvents(reconciler, 'cleanup_done', 100);
    await reconciler.start();
    await all;
    const alone = inHand.filter(([target]) => suspects.includes(target));
    expect(alone).toEqual(suspects.map(target => [target, 1]));
  });

  it('does not wait for rows in hand that have not been started', async () => {
    const db = await createDatabase();
    let open = () => {};
    const gate = new Promise<void>(resolve => {
      open = resolve;
    });
    const handler = fakeHandler(async ({ target }) => {
      if (target.path.startsWith('slow')) await gate;
      return DELETED;
    });
    handler.batchSize = 1;
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], concurrency: 1 });
    await db.sql("SELECT afterdelete.enqueue('fake://store/slow' || i) FROM generate_series(1, 20) i");
    const done = countEvents(reconciler, 'cleanup_done', 21);
    const listening = nextEvent(reconciler, 'listen_restored');
    await reconciler.start();
    await listening;
    await until(() => handler.seen.length === 1, 'the first');
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target, lost) VALUES ('fake://store/suspect', 3)",
    );
    // Makes it send a heartbeat, which tells it of suspects.
    await db.sql("SELECT pg_notify('afterdelete', 'pauses')");
    await until(() => reconciler.inHand === 1, 'the others handed back');
    open();
    await done;
    expect(handler.seen[1]).toBe('fake://store/suspect');
  });

  it('is dead when it is lost three times more, and says what to do', async () => {
    const db = await createDatabase();
    await db.sql("SELECT afterdelete.enqueue('fake://store/poison')");
    for (let lost = 0; lost < 6; lost++) {
      const [{ id }] = (await db.sql(
        "SELECT afterdelete.register('w', '0', ARRAY['fake://store'], ARRAY['fake://store/'], '-1 s', '1 day') AS id",
      )) as [{ id: string }];
      await db.sql("UPDATE afterdelete.worker SET lease_until = clock_timestamp() + interval '1 minute'");
      const claim =
        lost < 3
          ? "afterdelete.claim($1, ARRAY['fake://store'], ARRAY[1])"
          : "afterdelete.claim_suspect($1, ARRAY['fake://store'])";
      expect(await db.sql(`SELECT FROM ${claim}`, [id])).toHaveLength(1);
      await db.sql("UPDATE afterdelete.worker SET lease_until = '-infinity'");
      await db.sql('SELECT afterdelete.reap()');
    }
    const [dead] = await db.sql<{ last_error: string; attempt: number }>('SELECT * FROM afterdelete.stuck');
    expect(dead).toMatchObject({ state: 'dead', attempt: 0 });
    expect(dead?.last_error).toContain('it seems to kill the daemon');
  });
});

describe('several daemons', () => {
  it('on one queue do each row once', async () => {
    const db = await createDatabase();
    const handlers = [fakeHandler(), fakeHandler(), fakeHandler()];
    const daemons = handlers.map(handler =>
      testReconciler({ databaseUrl: db.url, handlers: [handler], prefetch: 100 }),
    );
    await Promise.all(daemons.map(daemon => daemon.start()));
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'fake://store/' || i FROM generate_series(1, 5000) i",
    );
    await until(
      async () =>
        (await db.sql('SELECT count(*)::int AS n FROM afterdelete.done_file_cleanup'))[0]?.n === 5_000,
      'all done',
    );
    const seen = handlers.flatMap(handler => handler.seen);
    expect(new Set(seen).size).toBe(5_000);
    expect(seen).toHaveLength(5_000);
  });
});

describe('poll only', () => {
  it('needs no second connection, and finds new rows within a second or so', async () => {
    const db = await createDatabase();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [fakeHandler()], listenUrl: 'off' });
    const timer = nextEvent(reconciler, 'wakeup', ({ cause }) => cause === 'timer');
    await reconciler.start();
    await timer;
    const done = nextEvent(reconciler, 'cleanup_done');
    await db.sql("SELECT afterdelete.enqueue('fake://store/a')");
    await done;
    expect(
      await db.sql(
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND query ILIKE 'LISTEN%'",
      ),
    ).toEqual([]);
  });
});

describe('start', () => {
  it('refuses a database without the schema, and names the command', async () => {
    const db = await createDatabase({ empty: true });
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [fakeHandler()] });
    await expect(reconciler.start()).rejects.toThrow(
      'the database has no afterdelete schema: run `afterdelete migrate` first',
    );
  });
});

describe('a delayed row', () => {
  it('is carried out when it is due, without waiting for the poll', async () => {
    const db = await createDatabase();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [fakeHandler()], poll: 300_000 });
    const listening = nextEvent(reconciler, 'listen_restored');
    await reconciler.start();
    await listening;
    const done = nextEvent(reconciler, 'cleanup_done');
    await db.sql("SELECT afterdelete.enqueue('fake://store/a', '300 ms')");
    await done;
  });
});
