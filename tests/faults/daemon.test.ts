/** What happens when a daemon, or its storage, fails. Promised: nothing is lost, nothing is done twice in the audit trail. */
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { describe, expect, it, onTestFinished } from 'vitest';
import { SLOW_DOWN, startS3Server, UNAVAILABLE } from '../s3-server/server.ts';
import { startDaemon } from '../support/daemon.ts';
import { createDatabase } from '../support/database.ts';
import { createDisk } from '../support/disk.ts';
import { until } from '../support/reconciler.ts';

const FILES = 3_000;

/** A tree that takes long enough to delete for a kill to come in between. */
function writeTree(path: string): void {
  for (let d = 0; d < 10; d++) {
    mkdirSync(`${path}/${d}`, { recursive: true });
    for (let f = 0; f < FILES / 10; f++) writeFileSync(`${path}/${d}/${f}`, '');
  }
}

/** Files left in the tree. */
function filesIn(path: string): number {
  if (!existsSync(path)) return 0;
  return readdirSync(path, { recursive: true, withFileTypes: true }).filter(entry => entry.isFile()).length;
}

describe('SIGKILL in the middle of a tree', () => {
  it('another daemon finishes it; it stands once in the audit trail, and never with more than the truth', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    writeTree(disk.at('tree'));
    const neighbour = disk.at('tree2');
    disk.write('tree2/kept');
    const env = { AFTERDELETE_LEASE: '2s' };
    const first = startDaemon({ databaseUrl: db.url, roots: [disk.root], env });
    await first.waitFor('started');
    await db.sql('SELECT afterdelete.enqueue($1)', [`${disk.root}tree/`]);
    await until(() => filesIn(disk.at('tree')) < FILES, 'the first files to go');
    await first.kill();
    const left = filesIn(disk.at('tree'));
    expect(left).toBeGreaterThan(0);

    const second = startDaemon({ databaseUrl: db.url, roots: [disk.root], env });
    await second.waitFor('cleanup_done');
    expect(existsSync(disk.at('tree'))).toBe(false);
    expect(readdirSync(neighbour)).toEqual(['kept']);
    const [audit, ...more] = await db.sql<{ objects: number }>(
      'SELECT outcome, attempt, objects_deleted::int AS objects FROM afterdelete.done_file_cleanup',
    );
    expect(more).toEqual([]);
    expect(audit).toMatchObject({ outcome: 'deleted', attempt: 1 });
    expect(audit?.objects).toBeGreaterThanOrEqual(left);
    expect(audit?.objects).toBeLessThanOrEqual(FILES);
  });
});

describe('SIGTERM in the middle of a tree', () => {
  it('exits 0, hands the tree back with what it has deleted, and nothing is counted twice', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    writeTree(disk.at('tree'));
    const first = startDaemon({ databaseUrl: db.url, roots: [disk.root] });
    await first.waitFor('started');
    await db.sql('SELECT afterdelete.enqueue($1)', [`${disk.root}tree/`]);
    await until(() => filesIn(disk.at('tree')) < FILES, 'the first files to go');
    expect(await first.stop('SIGTERM')).toEqual({ code: 0, signal: null });
    const left = filesIn(disk.at('tree'));
    const rows = await db.sql<{ objects: number }>(
      'SELECT objects_deleted::int AS objects FROM afterdelete.pending_file_cleanup',
    );
    expect(rows).toEqual([{ objects: FILES - left }]);

    const second = startDaemon({ databaseUrl: db.url, roots: [disk.root] });
    await second.waitFor('cleanup_done');
    expect(
      await db.sql(
        'SELECT outcome, attempt, objects_deleted::int AS objects FROM afterdelete.done_file_cleanup',
      ),
    ).toEqual([{ outcome: 'deleted', attempt: 1, objects: FILES }]);
  });
});

describe('SIGSTOP past the lease', () => {
  it('another daemon takes over; the stopped one, continued, settles nothing and deletes nothing more', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    const env = { AFTERDELETE_LEASE: '2s' };
    writeTree(disk.at('tree'));
    const stale = startDaemon({ databaseUrl: db.url, roots: [disk.root], env });
    await stale.waitFor('started');
    await db.sql('SELECT afterdelete.enqueue($1)', [`${disk.root}tree/`]);
    await until(() => filesIn(disk.at('tree')) < FILES, 'the first files to go');
    stale.signal('SIGSTOP');
    const other = startDaemon({ databaseUrl: db.url, roots: [disk.root], env });
    await other.waitFor('cleanup_done');
    stale.signal('SIGCONT');
    await stale.waitFor('lease_lost');
    // It has registered anew and works again.
    await other.stop();
    const target = disk.write('after');
    const done = stale.next('cleanup_done', line => line.target === target);
    await db.sql('SELECT afterdelete.enqueue($1)', [target]);
    await done;
    expect(
      await db.sql('SELECT target, attempt, outcome FROM afterdelete.done_file_cleanup ORDER BY id'),
    ).toEqual([
      { target: `${disk.root}tree/`, attempt: 1, outcome: 'deleted' },
      { target, attempt: 1, outcome: 'deleted' },
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
