import { describe, expect, it } from 'vitest';
import { createDatabase } from '../support/database.ts';
import { DELETED, fakeHandler } from '../support/fake-handler.ts';
import { countEvents, nextEvent, testReconciler } from '../support/reconciler.ts';

const done =
  'SELECT target, outcome, attempt, objects_deleted, bytes_freed FROM afterdelete.done_file_cleanup ORDER BY id';

describe('a row', () => {
  it('goes from pending to done, with its audit trail', async () => {
    const db = await createDatabase();
    const handler = fakeHandler();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler] });
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target, source) VALUES ('fake://store/a', 'why')",
    );
    expect(await reconciler.runOnce()).toBe(1);
    expect(handler.seen).toEqual(['fake://store/a']);
    expect(await db.sql(done)).toEqual([
      { target: 'fake://store/a', outcome: 'deleted', attempt: 1, objects_deleted: '1', bytes_freed: '10' },
    ]);
    expect(await db.sql('SELECT FROM afterdelete.pending_file_cleanup')).toEqual([]);
    expect(await db.sql('SELECT FROM afterdelete.running_file_cleanup')).toEqual([]);
  });

  it('that is written while the daemon sleeps is notified and carried out', async () => {
    const db = await createDatabase();
    const handler = fakeHandler();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler] });
    const listening = nextEvent(reconciler, 'listen_restored');
    await reconciler.start();
    await listening;
    for (let i = 0; i < 5; i++) {
      const done = countEvents(reconciler, 'cleanup_done', 1);
      await db.sql("SELECT afterdelete.enqueue('fake://store/a')");
      await done;
    }
    expect(handler.seen).toHaveLength(5);
  });

  it('of a rolled-back transaction is never seen', async () => {
    const db = await createDatabase();
    const handler = fakeHandler();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler] });
    const client = await db.connect();
    await client.query('BEGIN');
    await client.query("SELECT afterdelete.enqueue('fake://store/a')");
    await client.query('ROLLBACK');
    expect(await reconciler.runOnce()).toBe(0);
    expect(handler.seen).toEqual([]);
  });

  it('that fails is retried, and dead after the last attempt', async () => {
    const db = await createDatabase();
    const handler = fakeHandler(() => ({ outcome: 'retry', error: 'not today', objects: 0, bytes: null }));
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], maxAttempts: 3 });
    const dead = nextEvent(reconciler, 'cleanup_dead');
    await reconciler.start();
    await db.sql("SELECT afterdelete.enqueue('fake://store/a')");
    expect((await dead).attempt).toBe(3);
    expect(handler.seen).toHaveLength(3);
    const [row] = await db.sql<{ last_error: string }>('SELECT * FROM afterdelete.stuck');
    expect(row).toMatchObject({ state: 'dead', reason: 'dead', attempt: 3 });
    expect(row?.last_error).toBe('given up after attempt 3 of 3: not today');
  });

  it('comes in thousands, and each is done once', async () => {
    const db = await createDatabase();
    const handler = fakeHandler(() => DELETED);
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler] });
    const all = countEvents(reconciler, 'cleanup_done', 10_000);
    await reconciler.start();
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'fake://store/' || i FROM generate_series(1, 10000) i",
    );
    await all;
    expect(new Set(handler.seen).size).toBe(10_000);
    expect(handler.seen).toHaveLength(10_000);
    const [{ n }] = (await db.sql(
      'SELECT count(DISTINCT id)::int AS n FROM afterdelete.done_file_cleanup',
    )) as [{ n: number }];
    expect(n).toBe(10_000);
  });
});
