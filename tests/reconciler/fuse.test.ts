/** The fuse: of one root, only so many cleanups go within a window, whatever becomes of the others. */
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import type { Result } from '../../src/handlers/contract.ts';
import { Spending } from '../../src/outbox/spending.ts';
import type { Guard } from '../../src/reconciler/guard.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { DELETED, fakeHandler } from '../support/fake-handler.ts';
import { countEvents, nextEvent, testReconciler, until } from '../support/reconciler.ts';

const HOUR = 3_600_000;
const three = { cleanups: 3, window: HOUR };

async function put(db: TestDatabase, count: number, prefix = 'fake://store/'): Promise<void> {
  await db.sql(
    'INSERT INTO afterdelete.pending_file_cleanup (target) SELECT $2 || i FROM generate_series(1, $1::int) i',
    [count, prefix],
  );
}

/** What counts. */
async function counted(db: TestDatabase): Promise<number> {
  const [row] = await db.sql<{ n: number }>(
    'SELECT coalesce(sum(cleanups), 0)::int AS n FROM afterdelete.fuse_count',
  );
  return (row as { n: number }).n;
}

const pauses = async (db: TestDatabase) =>
  await db.sql('SELECT store, paused_by FROM afterdelete.store_pause ORDER BY store');

const BLOWN = { store: 'fake://store', paused_by: 'fuse' };

describe('the fuse', () => {
  it('lets as many go as it says; what is too many waits, untouched, and says why', async () => {
    const db = await createDatabase();
    const handler = fakeHandler();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], fuse: three });
    await put(db, 7);
    const paused = nextEvent(reconciler, 'store_paused');
    await reconciler.runOnce();
    const event = await paused;
    expect(event).toMatchObject({ store: 'fake://store', by: 'fuse' });
    expect(event.reason).toMatch(
      /^more than 3 cleanups of fake:\/\/store\/ within 01:00:00\. .*afterdelete\.resume\('fake:\/\/store'\)/,
    );
    expect(handler.seen).toEqual([1, 2, 3].map(i => `fake://store/${i}`));
    expect(
      await db.sql(
        'SELECT DISTINCT attempt, lost, put_back, last_error, objects_deleted FROM afterdelete.pending_file_cleanup',
      ),
    ).toEqual([{ attempt: 0, lost: 0, put_back: null, last_error: null, objects_deleted: null }]);
    const stuck = await db.sql<{ reason: string; last_error: string }>('SELECT * FROM afterdelete.stuck');
    expect(stuck).toHaveLength(4);
    for (const { reason, last_error } of stuck) {
      expect(reason).toBe('paused');
      expect(last_error).toMatch(/^paused by fuse since /);
      expect(last_error.endsWith(event.reason)).toBe(true);
    }
    expect(await db.sql('SELECT pending::int, running::int, paused FROM afterdelete.backlog')).toEqual([
      { pending: 4, running: 0, paused: true },
    ]);
    // Nor is anything claimed until then.
    expect(await reconciler.runOnce()).toBe(0);
  });

  it('does not blow for exactly as many as it says', async () => {
    const db = await createDatabase();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [fakeHandler()], fuse: three });
    await put(db, 3);
    await reconciler.runOnce();
    expect(await pauses(db)).toEqual([]);
    expect(await db.sql('SELECT FROM afterdelete.done_file_cleanup')).toHaveLength(3);
  });

  it('starts a new window when a person resumes the store', async () => {
    const db = await createDatabase();
    const handler = fakeHandler();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], fuse: three });
    const listening = nextEvent(reconciler, 'listen_restored');
    await put(db, 7);
    for (const gone of [3, 6]) {
      const paused = nextEvent(reconciler, 'store_paused');
      if (gone === 3) await reconciler.start();
      else await db.sql("SELECT afterdelete.resume('fake://store')");
      expect(await paused).toMatchObject({ by: 'fuse' });
      await until(() => reconciler.inHand === 0, 'the others handed back');
      expect(handler.seen).toHaveLength(gone);
      await listening;
    }
    const resumed = nextEvent(reconciler, 'store_resumed');
    const done = nextEvent(reconciler, 'cleanup_done');
    await db.sql("SELECT afterdelete.resume('fake://store')");
    expect(await resumed).toEqual({ store: 'fake://store', by: 'fuse' });
    await done;
    expect(handler.seen).toHaveLength(7);
    expect(await pauses(db)).toEqual([]);
  });

  it('has its count in common for all daemons, and pauses the store on all', async () => {
    const db = await createDatabase();
    const handlers = [fakeHandler(), fakeHandler()];
    const daemons = handlers.map(handler => {
      handler.batchSize = 1;
      return testReconciler({
        databaseUrl: db.url,
        handlers: [handler],
        fuse: { cleanups: 10, window: HOUR },
        prefetch: 8,
      });
    });
    const listening = daemons.map(daemon => nextEvent(daemon, 'listen_restored'));
    const paused = daemons.map(daemon => nextEvent(daemon, 'store_paused'));
    await Promise.all(daemons.map(daemon => daemon.start()));
    await Promise.all(listening);
    await put(db, 50);
    for (const event of await Promise.all(paused)) expect(event).toMatchObject({ by: 'fuse' });
    await until(() => daemons.every(daemon => daemon.inHand === 0), 'the others handed back');
    expect(handlers.reduce((sum, { seen }) => sum + seen.length, 0)).toBe(10);
    expect(await db.sql('SELECT FROM afterdelete.pending_file_cleanup')).toHaveLength(40);
  });

  it('counts each root of a store by itself', async () => {
    const db = await createDatabase();
    const handler = fakeHandler();
    const reconciler = testReconciler({
      databaseUrl: db.url,
      handlers: [handler],
      roots: ['fake://store/a/', 'fake://store/b/'],
      fuse: three,
    });
    await put(db, 3, 'fake://store/a/');
    await put(db, 3, 'fake://store/b/');
    await reconciler.runOnce();
    expect(handler.seen).toHaveLength(6);
    expect(await pauses(db)).toEqual([]);
    await put(db, 1, 'fake://store/b/x');
    await reconciler.runOnce();
    expect(handler.seen).toHaveLength(6);
    expect(await pauses(db)).toEqual([BLOWN]);
  });

  it('leaves other stores alone', async () => {
    const db = await createDatabase();
    const handler = fakeHandler();
    const reconciler = testReconciler({
      databaseUrl: db.url,
      handlers: [handler],
      roots: ['fake://store/', 'fake://other/'],
      fuse: three,
    });
    const paused = nextEvent(reconciler, 'store_paused');
    await put(db, 4);
    await reconciler.start();
    await paused;
    const done = countEvents(reconciler, 'cleanup_done', 3);
    await put(db, 3, 'fake://other/');
    await done;
    expect(await pauses(db)).toEqual([BLOWN]);
  });

  it("leaves an operator's pause as it is, and obeys it between the guard and the handler", async () => {
    const db = await createDatabase();
    const handler = fakeHandler();
    const guard: Guard = async targets => {
      await db.sql("SELECT afterdelete.pause('fake://store', 'moving disks')");
      return targets.map(() => ({ verdict: 'go' }));
    };
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], guard, fuse: three });
    await put(db, 7);
    const paused = nextEvent(reconciler, 'store_paused');
    await reconciler.runOnce();
    expect(await paused).toEqual({ store: 'fake://store', by: 'operator', reason: 'moving disks' });
    expect(handler.seen).toEqual([]);
    expect(await pauses(db)).toEqual([{ store: 'fake://store', paused_by: 'operator' }]);
    expect(await db.sql('SELECT FROM afterdelete.pending_file_cleanup')).toHaveLength(7);
  });

  it('lets cleanups go again when others have left its window', async () => {
    const db = await createDatabase();
    const handler = fakeHandler();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], fuse: three });
    for (const prefix of ['a', 'b', 'c']) {
      await put(db, 3, `fake://store/${prefix}`);
      await reconciler.runOnce();
      await db.sql("UPDATE afterdelete.fuse_count SET ends_at = ends_at - interval '61 minutes'");
    }
    expect(handler.seen).toHaveLength(9);
    expect(await pauses(db)).toEqual([]);
  });
});

describe('a cleanup counts once', () => {
  const failure = (outcome: 'retry' | 'blocked' | 'unavailable'): Result => ({
    outcome,
    error: 'because',
    objects: 0,
    bytes: null,
  });

  it('however often it fails, is blocked, or finds its storage down', async () => {
    const db = await createDatabase();
    const answers: Result[] = [
      failure('retry'),
      failure('blocked'),
      failure('unavailable'),
      { outcome: 'yielded', objects: 0, bytes: null, progressed: true },
      failure('retry'),
    ];
    const handler = fakeHandler(() => answers.shift() ?? DELETED);
    const fuse = { cleanups: 1, window: HOUR };
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], fuse });
    await put(db, 1);
    while (answers.length > 0) {
      await reconciler.runOnce();
      expect(await counted(db)).toBe(0);
      // Due now, however long it would have waited.
      await db.sql('SELECT afterdelete.retry(id) FROM afterdelete.pending_file_cleanup');
    }
    await reconciler.runOnce();
    expect(await db.sql('SELECT FROM afterdelete.done_file_cleanup')).toHaveLength(1);
    expect(await counted(db)).toBe(1);
    expect(await pauses(db)).toEqual([]);
  });

  it('and not at all when it dies without having lost anything', async () => {
    const db = await createDatabase();
    const handler = fakeHandler(() => ({ outcome: 'dead', error: 'denied', objects: 0, bytes: null }));
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], fuse: three });
    await put(db, 3);
    await reconciler.runOnce();
    expect(await db.sql('SELECT FROM afterdelete.dead_file_cleanup')).toHaveLength(3);
    expect(await counted(db)).toBe(0);
  });

  it('also when it was gone already', async () => {
    const db = await createDatabase();
    const handler = fakeHandler(() => ({ outcome: 'absent', objects: 0, bytes: null }));
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], fuse: three });
    await put(db, 2);
    await reconciler.runOnce();
    expect(await counted(db)).toBe(2);
  });

  it('over all slices of a giant tree', async () => {
    const db = await createDatabase();
    const slices: Result[] = [
      { outcome: 'yielded', objects: 5, bytes: 50 },
      { outcome: 'yielded', objects: 0, bytes: null, progressed: true },
      { outcome: 'retry', error: 'busy', objects: 1, bytes: 10 },
      { outcome: 'yielded', objects: 5, bytes: 50 },
    ];
    const handler = fakeHandler(() => slices.shift() ?? DELETED);
    const fuse = { cleanups: 1, window: HOUR };
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], fuse });
    const done = nextEvent(reconciler, 'cleanup_done');
    await db.sql("SELECT afterdelete.enqueue('fake://store/giant/')");
    await reconciler.start();
    await done;
    expect(await counted(db)).toBe(1);
    expect(await pauses(db)).toEqual([]);
  });

  it('from the first of its objects: no more giant trees are begun than may go', async () => {
    const db = await createDatabase();
    const handler = fakeHandler(() => ({ outcome: 'yielded', objects: 1, bytes: null }));
    const reconciler = testReconciler({
      databaseUrl: db.url,
      handlers: [handler],
      fuse: three,
      concurrency: 1,
    });
    const paused = nextEvent(reconciler, 'store_paused');
    await db.sql("SELECT afterdelete.enqueue('fake://store/' || i || '/') FROM generate_series(1, 10) i");
    await reconciler.start();
    await paused;
    await until(() => reconciler.inHand === 0, 'all handed back');
    expect(new Set(handler.seen).size).toBe(3);
  });

  it('in a batch with others, too', async () => {
    const db = await createDatabase();
    const handler = fakeHandler();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], fuse: three });
    await put(db, 5);
    // It has counted before, and goes on whatever the others may do.
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target, objects_deleted) VALUES ('fake://store/begun', 1)",
    );
    await reconciler.runOnce();
    expect(handler.seen).toEqual(['1', '2', '3', 'begun'].map(name => `fake://store/${name}`));
    expect(await counted(db)).toBe(3);
  });

  it('never, while the guard keeps or blocks it', async () => {
    const db = await createDatabase();
    const guard: Guard = async targets =>
      targets.map(target =>
        target.includes('free')
          ? { verdict: 'go' }
          : { verdict: target.includes('kept') ? 'kept' : 'blocked', reason: 'held' },
      );
    const handler = fakeHandler();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], guard, fuse: three });
    for (const name of ['kept', 'held', 'free']) await put(db, 3, `fake://store/${name}-`);
    await reconciler.runOnce();
    expect(handler.seen).toHaveLength(3);
    expect(await counted(db)).toBe(3);
    expect(await pauses(db)).toEqual([]);
  });
});

describe('the database', () => {
  it('is asked once a batch, and to take back only when something stayed', async () => {
    const db = await createDatabase();
    const [spend, giveBack] = [
      vi.spyOn(Spending.prototype, 'spend'),
      vi.spyOn(Spending.prototype, 'giveBack'),
    ];
    onTestFinished(() => void vi.restoreAllMocks());
    const handler = fakeHandler();
    const fuse = { cleanups: 1_000, window: HOUR };
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], fuse });
    await put(db, 500);
    await reconciler.runOnce();
    expect([spend.mock.calls.length, giveBack.mock.calls.length]).toEqual([1, 0]);
    handler.answer = ({ id }) =>
      Number(id) % 2 === 0 ? DELETED : { outcome: 'retry', error: 'no', objects: 0, bytes: null };
    await put(db, 100, 'fake://store/more-');
    await reconciler.runOnce();
    expect([spend.mock.calls.length, giveBack.mock.calls.length]).toEqual([2, 1]);
    expect(await counted(db)).toBe(550);
  });

  it('is not asked at all when the fuse is off', async () => {
    const db = await createDatabase();
    const spend = vi.spyOn(Spending.prototype, 'spend');
    onTestFinished(() => void vi.restoreAllMocks());
    await db.sql('DROP FUNCTION afterdelete.spend, afterdelete.give_back');
    for (const fuse of ['off', undefined] as const) {
      const reconciler = testReconciler({
        databaseUrl: db.url,
        handlers: [fakeHandler()],
        ...(fuse === undefined ? {} : { fuse }),
      });
      await put(db, 10);
      await reconciler.runOnce();
    }
    expect(await db.sql('SELECT FROM afterdelete.done_file_cleanup')).toHaveLength(20);
    expect(spend).not.toHaveBeenCalled();
  });

  it('that cannot be asked lets nothing go: all is blocked, and says why', async () => {
    const db = await createDatabase();
    await db.sql('DROP FUNCTION afterdelete.spend');
    const handler = fakeHandler();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], fuse: three });
    const trouble = nextEvent(reconciler, 'trouble', ({ doing }) => doing.includes('fuse'));
    await put(db, 2);
    await reconciler.runOnce();
    expect((await trouble).doing).toBe('asking the fuse about 2 cleanups of fake://store');
    expect(handler.seen).toEqual([]);
    const stuck = await db.sql<{ reason: string; last_error: string }>('SELECT * FROM afterdelete.stuck');
    expect(stuck).toHaveLength(2);
    for (const row of stuck) {
      expect(row).toMatchObject({ reason: 'blocked', attempt: 0 });
      expect(row.last_error).toMatch(
        /^the fuse cannot be asked: function afterdelete\.spend\(.* does not exist/,
      );
    }
  });

  it('that takes nothing back leaves the rows counted, and they are settled all the same', async () => {
    const db = await createDatabase();
    await db.sql('DROP FUNCTION afterdelete.give_back');
    const handler = fakeHandler(() => ({ outcome: 'dead', error: 'denied', objects: 0, bytes: null }));
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], fuse: three });
    const trouble = nextEvent(reconciler, 'trouble');
    await put(db, 2);
    await reconciler.runOnce();
    expect((await trouble).doing).toContain('giving back');
    expect(await db.sql('SELECT FROM afterdelete.dead_file_cleanup')).toHaveLength(2);
    expect(await counted(db)).toBe(2);
  });

  it('that was asked about pauses before the fuse blew does not resume the store', async () => {
    const db = await createDatabase();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [fakeHandler()], fuse: three });
    const { outbox } = reconciler;
    const { promise: blown, resolve: blow } = Promise.withResolvers<void>();
    const storePauses = outbox.storePauses.bind(outbox);
    let asked = 0;
    outbox.storePauses = async stores => {
      const answer = await storePauses(stores);
      if (++asked === 1) await blown;
      return answer;
    };
    const events: string[] = [];
    reconciler.events.on('store_resumed', ({ by }) => void events.push(`resumed ${by}`));
    reconciler.events.on('store_paused', ({ by }) => void events.push(`paused ${by}`));
    const paused = nextEvent(reconciler, 'store_paused');
    await reconciler.start();
    const listening = nextEvent(reconciler, 'listen_restored');
    await listening;
    // As a notification makes it ask.
    await outbox.notify('pauses');
    await until(() => asked === 1, 'the question');
    await put(db, 4);
    await paused;
    blow();
    await until(() => asked > 1, 'another question');
    expect(events).toEqual(['paused fuse']);
  });
});
