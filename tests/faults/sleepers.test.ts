/**
 * Two daemons that share a store, both asleep: one of them holds the store's key. Promised: a writer's NOTIFY reaches both, and
 * whatever becomes of the one with the key, the other has the next row without waiting for its poll.
 */
import { describe, expect, it } from 'vitest';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { createDisk, type Disk } from '../support/disk.ts';
import { DELETED, fakeHandler } from '../support/fake-handler.ts';
import { nextEvent, testReconciler, until } from '../support/reconciler.ts';

/** Longer than any test: whoever waits for it has lost a wake-up. */
const POLL = 300_000;
/** First key of the advisory locks by which a daemon tells that it sleeps. */
const LOCK_CLASS = 1634104420;

/** The process that holds a key. */
async function keeper(db: TestDatabase): Promise<number | undefined> {
  const [row] = await db.sql<{ name: string }>(
    `SELECT a.application_name AS name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
      WHERE l.locktype = 'advisory' AND l.classid = $1 AND l.mode = 'ExclusiveLock' AND l.granted AND a.datname = current_database()`,
    [LOCK_CLASS],
  );
  return row && Number(row.name.split('/')[1]);
}

/** Two daemons, both asleep. */
async function sleepers(
  db: TestDatabase,
  disk: Disk,
): Promise<{ keeper: Daemon; other: Daemon; all: readonly Daemon[] }> {
  const env = { AFTERDELETE_POLL: '5m', AFTERDELETE_LEASE: '2m' };
  const all = [1, 2].map(() => startDaemon({ databaseUrl: db.url, roots: [disk.root], env }));
  for (const daemon of all) await daemon.waitFor('listen_restored');
  let pid: number | undefined;
  await until(async () => {
    pid = await keeper(db);
    return pid !== undefined;
  }, 'one of them to hold the key');
  const first = all.find(daemon => daemon.pid === pid) as Daemon;
  return { keeper: first, other: all.find(daemon => daemon !== first) as Daemon, all };
}

/** Writes a row for a file, and waits until it is done. */
async function write(db: TestDatabase, disk: Disk, name: string): Promise<void> {
  const target = disk.write(name);
  await db.sql('SELECT afterdelete.enqueue($1)', [target]);
  await until(
    async () =>
      (await db.sql('SELECT FROM afterdelete.done_file_cleanup WHERE target = $1', [target])).length > 0,
    `${name} to be done`,
  );
}

describe('the daemon that holds the key', () => {
  it.each([
    // Its sessions end, and the key with them: the other takes it with its next try.
    ['is killed', 'SIGKILL'],
    // Its sessions stay, and the key with them: writers notify, and the other hears.
    ['is stopped', 'SIGSTOP'],
    ['is told to end', 'SIGTERM'],
  ] as const)('%s: the other has every row that is written from then on', async (_, signal) => {
    const db = await createDatabase();
    const disk = createDisk();
    const { keeper: first, other } = await sleepers(db, disk);
    first.signal(signal);
    for (let i = 0; i < 20; i++) await write(db, disk, `${i}`);
    const rows = await db.sql<{ worker: string }>('SELECT worker FROM afterdelete.done_file_cleanup');
    expect(rows).toHaveLength(20);
    // One that is told to end may still have had the first ones.
    if (signal !== 'SIGTERM')
      expect(new Set(rows.map(row => Number(row.worker.split('/')[1])))).toEqual(new Set([other.pid]));
    if (signal === 'SIGSTOP') expect(await keeper(db)).toBe(first.pid);
    else await until(async () => (await keeper(db)) === other.pid, 'the other to hold the key');
  });
});

describe('two daemons that sleep', () => {
  it('both hear of a row, and one has it', async () => {
    const db = await createDatabase();
    const handlers = [fakeHandler(), fakeHandler()];
    const daemons = handlers.map(handler =>
      testReconciler({ databaseUrl: db.url, handlers: [handler], poll: POLL }),
    );
    for (const daemon of daemons) {
      const listening = nextEvent(daemon, 'listen_restored');
      await daemon.start();
      await listening;
    }
    const rung = new Set<unknown>();
    for (const daemon of daemons)
      daemon.events.on('wakeup', ({ cause }) => void (cause === 'notify' && rung.add(daemon)));
    const written: string[] = [];
    // A row whose writer finds the other one not yet asleep, or the key not held, may not be told to both.
    while (rung.size < 2) {
      await until(async () => (await keeper(db)) !== undefined, 'one of them to hold the key');
      // Both have to be told of the same row.
      rung.clear();
      written.push(`fake://store/${written.length}`);
      await db.sql('SELECT afterdelete.enqueue($1)', written.slice(-1));
      await until(
        async () => (await db.sql('SELECT FROM afterdelete.done_file_cleanup')).length === written.length,
        'the row to be done',
      );
    }
    expect(handlers.flatMap(handler => handler.seen).sort()).toEqual(written.sort());
  });

  it('of which one has its hands full leave what comes next to the other', async () => {
    const db = await createDatabase();
    const { promise, resolve: release } = Promise.withResolvers<void>();
    const handlers = [1, 2].map(() =>
      fakeHandler(async ({ target }) => {
        if (target.text === 'fake://store/long') await promise;
        return DELETED;
      }),
    );
    const daemons = handlers.map(handler =>
      testReconciler({ databaseUrl: db.url, handlers: [handler], poll: POLL, prefetch: 1, concurrency: 1 }),
    );
    for (const daemon of daemons) {
      const listening = nextEvent(daemon, 'listen_restored');
      await daemon.start();
      await listening;
    }
    await db.sql("SELECT afterdelete.enqueue('fake://store/long')");
    await until(() => handlers.some(handler => handler.seen.length === 1), 'one to have its hands full');
    const idle = handlers.find(handler => handler.seen.length === 0);
    const next = Array.from({ length: 20 }, (_, i) => `fake://store/${i}`);
    for (const [i, target] of next.entries()) {
      await db.sql('SELECT afterdelete.enqueue($1)', [target]);
      await until(() => idle?.seen.length === i + 1, `${target} to be taken`);
    }
    expect(idle?.seen).toEqual(next);
    release();
    await until(
      async () => (await db.sql('SELECT FROM afterdelete.done_file_cleanup')).length === 21,
      'the first row to be done',
    );
  });

  it('do not make every writer notify when many do, and sleep again later', async () => {
    const db = await createDatabase();
    const daemons = [1, 2, 3].map(() =>
      testReconciler({ databaseUrl: db.url, handlers: [fakeHandler()], poll: POLL }),
    );
    for (const daemon of daemons) {
      const listening = nextEvent(daemon, 'listen_restored');
      await daemon.start();
      await listening;
    }
    await until(async () => (await keeper(db)) !== undefined, 'one of them to hold the key');
    // As many writers do, at once. None of the daemons has any of their rows: another one is quicker.
    await until(async () => {
      await db.sql("SELECT pg_notify('afterdelete', i::text) FROM generate_series(1, 100) i");
      return (await keeper(db)) === undefined;
    }, 'the key to be given back');
    await until(async () => (await keeper(db)) !== undefined, 'one of them to hold the key again');
  });
});
