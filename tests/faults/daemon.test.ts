/** What happens when a daemon, or its storage, fails. Promised: nothing is lost, nothing is done twice in the audit trail. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, it, onTestFinished } from 'vitest';
import { SLOW_DOWN, startS3Server, UNAVAILABLE } from '../s3-server/server.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { createDisk, type Disk } from '../support/disk.ts';
import { until } from '../support/reconciler.ts';

/** A tree of so many files. */
function writeTree(path: string, files: number): void {
  for (let d = 0; d < 10; d++) {
    mkdirSync(`${path}/${d}`, { recursive: true });
    for (let f = 0; f < files / 10; f++) writeFileSync(`${path}/${d}/${f}`, '');
  }
}

interface Caught {
  /** How many files the tree had, and how many are left. */
  readonly files: number;
  readonly left: number;
  readonly target: string;
}

/**
 * Has a tree deleted and stops the daemon (SIGSTOP) in the middle of it. A tree that was gone before it could be stopped is
 * followed by a bigger one: how big it must be depends on the machine.
 */
async function catchInTheAct(daemon: Daemon, db: TestDatabase, disk: Disk): Promise<Caught> {
  for (let files = 2_000; ; files *= 4) {
    const name = `tree${files}`;
    const target = `${disk.root}${name}/`;
    writeTree(disk.at(name), files);
    await db.sql('SELECT afterdelete.enqueue($1)', [target]);
    await until(() => filesIn(disk.at(name)) < files, 'the first files to go');
    daemon.signal('SIGSTOP');
    await until(() => isStopped(daemon.pid), 'all of its threads to stand still');
    const left = filesIn(disk.at(name));
    if (left > 0) return { files, left, target };
    daemon.signal('SIGCONT');
    await daemon.waitFor('cleanup_done', line => line.target === target);
    await db.sql('DELETE FROM afterdelete.done_file_cleanup');
  }
}

/** Whether all threads of a process are stopped; where there is no /proc it is taken to be. */
function isStopped(pid: number): boolean {
  const tasks = `/proc/${pid}/task`;
  if (!existsSync(tasks)) return true;
  // The state stands behind the name, which may hold anything.
  return readdirSync(tasks).every(task => {
    try {
      return /.*\) T/s.test(readFileSync(`${tasks}/${task}/stat`, 'utf8'));
    } catch {
      // A thread that has just ended: it stands still when the next look says so.
      return false;
    }
  });
}

/** Files left in the tree. */
function filesIn(path: string): number {
  if (!existsSync(path)) return 0;
  try {
    return readdirSync(path, { recursive: true, withFileTypes: true }).filter(entry => entry.isFile()).length;
  } catch (error) {
    // A directory that was just listed is gone.
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return filesIn(path);
    throw error;
  }
}

describe('SIGKILL in the middle of a tree', () => {
  it('another daemon finishes it; it stands once in the audit trail, and never with more than the truth', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    disk.write('tree/kept');
    const env = { AFTERDELETE_LEASE: '2s' };
    const first = startDaemon({ databaseUrl: db.url, roots: [disk.root], env });
    await first.waitFor('started');
    const { files, left, target } = await catchInTheAct(first, db, disk);
    await first.kill();

    const second = startDaemon({ databaseUrl: db.url, roots: [disk.root], env });
    await second.waitFor('cleanup_done');
    expect(readdirSync(disk.path).sort()).toEqual(['.afterdelete-root', 'tree']);
    expect(readdirSync(disk.at('tree'))).toEqual(['kept']);
    const audit = await db.sql<{ objects: number }>(
      'SELECT target, outcome, attempt, objects_deleted::int AS objects FROM afterdelete.done_file_cleanup',
    );
    expect(audit).toEqual([{ target, outcome: 'deleted', attempt: 1, objects: expect.any(Number) }]);
    expect(audit[0]?.objects).toBeGreaterThanOrEqual(left);
    expect(audit[0]?.objects).toBeLessThanOrEqual(files);
  });
});

describe('SIGTERM in the middle of a tree', () => {
  it('exits 0, hands the tree back with what it has deleted, and nothing is counted twice', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    const first = startDaemon({ databaseUrl: db.url, roots: [disk.root] });
    await first.waitFor('started');
    const { files, target } = await catchInTheAct(first, db, disk);
    // Both wait for it when it goes on: it stops before it does anything else, or finishes what little was left.
    const exit = first.stop('SIGTERM');
    first.signal('SIGCONT');
    expect(await exit).toEqual({ code: 0, signal: null });
    const left = filesIn(disk.at(`tree${files}`));
    const [row] = await db.sql(`SELECT objects_deleted::int AS objects FROM afterdelete.pending_file_cleanup
      UNION ALL SELECT objects_deleted::int FROM afterdelete.done_file_cleanup`);
    expect(row).toEqual({ objects: files - left });

    const second = startDaemon({ databaseUrl: db.url, roots: [disk.root] });
    await until(
      async () => (await db.sql('SELECT FROM afterdelete.done_file_cleanup')).length === 1,
      'the end of the tree',
    );
    await second.stop();
    expect(
      await db.sql(
        'SELECT target, outcome, attempt, objects_deleted::int AS objects FROM afterdelete.done_file_cleanup',
      ),
    ).toEqual([{ target, outcome: 'deleted', attempt: 1, objects: files }]);
  });
});

describe('SIGSTOP past the lease', () => {
  it('another daemon takes over; the stopped one, continued, settles nothing and deletes nothing more', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    const env = { AFTERDELETE_LEASE: '2s' };
    const stale = startDaemon({ databaseUrl: db.url, roots: [disk.root], env });
    await stale.waitFor('started');
    const { target } = await catchInTheAct(stale, db, disk);
    const other = startDaemon({ databaseUrl: db.url, roots: [disk.root], env });
    await other.waitFor('cleanup_done');
    stale.signal('SIGCONT');
    await stale.waitFor('lease_lost');
    // It has registered anew and works again.
    await other.stop();
    const after = disk.write('after');
    const done = stale.next('cleanup_done', line => line.target === after);
    await db.sql('SELECT afterdelete.enqueue($1)', [after]);
    await done;
    expect(
      await db.sql('SELECT target, attempt, outcome FROM afterdelete.done_file_cleanup ORDER BY id'),
    ).toEqual([
      { target, attempt: 1, outcome: 'deleted' },
      { target: after, attempt: 1, outcome: 'deleted' },
    ]);
  });
});

describe('an S3 server', () => {
  const setup = async () => {
    const db = await createDatabase();
    const s3 = await startS3Server({ buckets: ['bucket'] });
    onTestFinished(() => s3.stop());
    const daemon = startDaemon({
      databaseUrl: db.url,
      roots: ['s3://bucket/a/'],
      env: {
        AWS_ENDPOINT_URL_S3: s3.endpoint,
        AWS_ACCESS_KEY_ID: s3.accessKeyId,
        AWS_SECRET_ACCESS_KEY: s3.secretAccessKey,
        AFTERDELETE_RETRY_BASE: '10ms',
        AFTERDELETE_RETRY_CAP: '100ms',
      },
    });
    const keys = Array.from({ length: 50 }, (_, i) => `a/${i}`);
    for (const key of keys) s3.buckets.put('bucket', key, 'x');
    s3.buckets.put('bucket', 'b/kept', 'x');
    const enqueue = () =>
      db.sql(
        "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 's3://bucket/' || k FROM unnest($1::text[]) k",
        [keys],
      );
    const expectGone = () => {
      expect(s3.buckets.list('bucket', 'a/')).toEqual([]);
      expect(s3.buckets.count('bucket')).toBe(1);
    };
    return { db, s3, daemon, keys, enqueue, expectGone };
  };

  it('that answers 503 is paused, and loses nothing and burns no attempt', async () => {
    const { db, s3, daemon, enqueue, expectGone } = await setup();
    await daemon.waitFor('started');
    const heal = s3.faults.when(() => true, UNAVAILABLE);
    await enqueue();
    expect(await daemon.waitFor('store_paused')).toMatchObject({ store: 's3://bucket', by: 'breaker' });
    heal();
    await daemon.count('cleanup_done', 50);
    await daemon.waitFor('store_resumed');
    expectGone();
    expect(await db.sql('SELECT DISTINCT attempt FROM afterdelete.done_file_cleanup')).toEqual([
      { attempt: 1 },
    ]);
  });

  it('that answers SlowDown is retried', async () => {
    const { s3, daemon, enqueue, expectGone } = await setup();
    await daemon.waitFor('started');
    s3.faults.next(SLOW_DOWN, 2);
    await enqueue();
    await daemon.count('cleanup_done', 50);
    expectGone();
  });

  it('that refuses some keys: the others go, those are dead and say why', async () => {
    const { db, s3, daemon, enqueue } = await setup();
    await daemon.waitFor('started');
    s3.faults.perKey(key =>
      key.endsWith('7') ? { code: 'AccessDenied', message: 'Access Denied' } : undefined,
    );
    await enqueue();
    await daemon.count('cleanup_done', 45);
    await daemon.count('cleanup_dead', 5);
    expect(s3.buckets.count('bucket', 'a/')).toBe(5);
    const stuck = await db.sql<{ last_error: string; attempt: number }>(
      'SELECT last_error, attempt FROM afterdelete.stuck',
    );
    expect(stuck).toHaveLength(5);
    for (const row of stuck) {
      expect(row.attempt).toBe(1);
      expect(row.last_error).toContain('AccessDenied');
    }
  });

  it('that is not there at all, and comes back', async () => {
    const { db, s3, daemon, enqueue, expectGone } = await setup();
    await daemon.waitFor('started');
    await s3.stop();
    await enqueue();
    await daemon.waitFor('store_paused');
    await until(
      async () => (await db.sql("SELECT FROM afterdelete.stuck WHERE reason = 'paused'")).length === 50,
      'the paused rows',
    );
    await s3.start();
    await daemon.count('cleanup_done', 50);
    expectGone();
    expect(await db.sql('SELECT DISTINCT attempt FROM afterdelete.done_file_cleanup')).toEqual([
      { attempt: 1 },
    ]);
  });
});
