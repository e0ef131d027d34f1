/** What must not be deleted is not, and a person is told why: the built daemon, real files, a real S3 dialogue. */
import { chmodSync, existsSync, mkdirSync, readdirSync, renameSync, statSync, symlinkSync } from 'node:fs';
import { describe, expect, it, onTestFinished } from 'vitest';
import { startS3Server } from '../s3-server/server.ts';
import { ordinaryUser } from '../support/command.ts';
import { startDaemon } from '../support/daemon.ts';
import { createDatabase } from '../support/database.ts';
import { createDisk, type Disk } from '../support/disk.ts';

const user = ordinaryUser();

/** Every path below a directory: what must be the same before and after. */
function snapshot(disk: Disk): string[] {
  return readdirSync(disk.path, { recursive: true })
    .map(String)
    .filter(name => !name.startsWith('.afterdelete-root'))
    .sort();
}

describe('dead, with a message a person understands, and nothing touched', () => {
  const rows: [string, (disk: Disk) => string, string][] = [
    ['outside every root', disk => `file://${disk.at('other/file')}`, 'is outside every root'],
    ['the root itself', disk => `file://${disk.at('root/')}`, 'is the root'],
    ['the root itself, without its slash', disk => `file://${disk.at('root')}`, 'is the root'],
    [
      'a root whose name only begins like it',
      disk => `file://${disk.at('root2/file')}`,
      'is outside every root',
    ],
    ['the mark of the root', disk => `file://${disk.at('root/.afterdelete-root')}`, 'marks the root'],
    ['a directory named without a slash', disk => `file://${disk.at('root/tree')}`, 'directory'],
    ['a file named with a slash', disk => `file://${disk.at('root/file/')}`, 'file'],
    ['a path through a symbolic link', disk => `file://${disk.at('root/link/file')}`, 'symbolic link'],
  ];

  it.each(rows)('%s', async (_, target, message) => {
    const db = await createDatabase();
    const disk = createDisk();
    for (const name of ['root/file', 'root/tree/a', 'root2/file', 'other/file']) disk.write(name);
    symlinkSync(disk.at('other'), disk.at('root/link'));
    const before = snapshot(disk);
    const daemon = startDaemon({ databaseUrl: db.url, roots: [`file://${disk.at('root/')}`] });
    await db.sql('SELECT afterdelete.enqueue($1)', [target(disk)]);
    const dead = await daemon.waitFor('cleanup_dead');
    expect(dead.error).toContain(message);
    const [stuck] = await db.sql<{ last_error: string }>(
      'SELECT state, reason, attempt, last_error FROM afterdelete.stuck',
    );
    expect(stuck).toEqual({ state: 'dead', reason: 'dead', attempt: 1, last_error: dead.error });
    await daemon.stop();
    expect(snapshot(disk).filter(name => name !== 'root/.afterdelete-root')).toEqual(before);
  });

  it('a bucket that does not exist', async () => {
    const db = await createDatabase();
    const s3 = await startS3Server({ buckets: ['here'] });
    onTestFinished(() => s3.stop());
    const daemon = startDaemon({
      databaseUrl: db.url,
      roots: ['s3://gone/a/'],
      env: {
        AWS_ENDPOINT_URL_S3: s3.endpoint,
        AWS_ACCESS_KEY_ID: s3.accessKeyId,
        AWS_SECRET_ACCESS_KEY: s3.secretAccessKey,
      },
    });
    await db.sql("SELECT afterdelete.enqueue('s3://gone/a/key'), afterdelete.enqueue('s3://gone/a/prefix/')");
    await daemon.count('cleanup_dead', 2);
    const stuck = await db.sql<{ last_error: string }>('SELECT last_error FROM afterdelete.stuck');
    for (const { last_error } of stuck)
      expect(last_error).toMatch(/NoSuchBucket.*check the bucket's name and the endpoint/);
    expect(await db.sql('SELECT FROM afterdelete.done_file_cleanup')).toEqual([]);
  });

  it.skipIf(user === 'impossible')('a directory without permission', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    disk.write('closed/file');
    disk.write('open/file');
    // The daemon may write its mark, and delete in `open`.
    for (const name of ['', 'open']) chmodSync(disk.at(name), 0o777);
    chmodSync(disk.at('closed'), 0o555);
    onTestFinished(() => chmodSync(disk.at('closed'), 0o755));
    const daemon = startDaemon({ databaseUrl: db.url, roots: [disk.root], ...(user as { uid?: number }) });
    await db.sql('SELECT afterdelete.enqueue(t) FROM unnest($1::text[]) t', [
      [`${disk.root}closed/file`, `${disk.root}open/file`],
    ]);
    await daemon.waitFor('cleanup_done', line => line.target === `${disk.root}open/file`);
    const dead = await daemon.waitFor('cleanup_dead', line => line.target === `${disk.root}closed/file`);
    expect(dead.error).toContain('closed/file');
    expect(dead.error).toMatch(/EACCES|permission/i);
    expect(existsSync(disk.at('closed/file'))).toBe(true);
  });
});

describe('refused when written', () => {
  it.each([
    ['..', 'file:///data/../etc/passwd', 'target_has_no_dot_segments'],
    ['an empty prefix', 's3://bucket/', 'target_of_an_object_has_bucket_and_key'],
    ['the whole disk', 'file:///', 'target_of_a_file_has_a_path'],
    ['no scheme', '/data/file', 'target_has_a_scheme'],
  ])('%s', async (_, target, rule) => {
    const db = await createDatabase();
    await expect(
      db.sql('INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ($1)', [target]),
    ).rejects.toMatchObject({
      code: '23514',
      constraint: rule,
    });
  });
});

describe('a root whose disk is not mounted', () => {
  it('pauses the store: nothing is "already deleted"; mounted again, the row is done', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    const target = disk.write('mount/file');
    const root = `file://${disk.at('mount/')}`;
    const first = startDaemon({ databaseUrl: db.url, roots: [root] });
    await first.waitFor('started');
    await first.stop();

    // Unmounted: the mount point is there, and empty.
    renameSync(disk.at('mount'), disk.at('elsewhere'));
    mkdirSync(disk.at('mount'));
    const daemon = startDaemon({ databaseUrl: db.url, roots: [root] });
    await db.sql('SELECT afterdelete.enqueue($1)', [target]);
    const paused = await daemon.waitFor('store_paused');
    expect(paused).toMatchObject({ store: 'file://', by: 'root' });
    expect(paused.reason).toContain('check --adopt');
    expect(readdirSync(disk.at('mount'))).toEqual([]);
    expect(await db.sql('SELECT attempt FROM afterdelete.pending_file_cleanup')).toEqual([{ attempt: 0 }]);
    const { text } = await daemon.get('/metrics');
    expect(text).toContain('afterdelete_store_paused{store="file://",by="root"} 1');

    renameSync(disk.at('mount'), disk.at('mount.empty'));
    renameSync(disk.at('elsewhere'), disk.at('mount'));
    expect(await daemon.waitFor('cleanup_done')).toMatchObject({ outcome: 'deleted', attempt: 1 });
    expect(existsSync(disk.at('mount/file'))).toBe(false);
    expect(statSync(disk.at('mount')).isDirectory()).toBe(true);
  });

  it('in the middle of its work: what comes after is not "already deleted" either', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    disk.write('mount/a');
    const target = disk.write('mount/b');
    const root = `file://${disk.at('mount/')}`;
    const daemon = startDaemon({ databaseUrl: db.url, roots: [root] });
    await db.sql('SELECT afterdelete.enqueue($1)', [`file://${disk.at('mount/a')}`]);
    await daemon.waitFor('cleanup_done');
    renameSync(disk.at('mount'), disk.at('elsewhere'));
    mkdirSync(disk.at('mount'));
    await db.sql('SELECT afterdelete.enqueue($1)', [target]);
    await daemon.waitFor('store_paused', line => line.by === 'root');
    expect(existsSync(disk.at('elsewhere/b'))).toBe(true);
    expect(await db.sql('SELECT outcome FROM afterdelete.done_file_cleanup')).toEqual([
      { outcome: 'deleted' },
    ]);
    renameSync(disk.at('mount'), disk.at('mount.empty'));
    renameSync(disk.at('elsewhere'), disk.at('mount'));
    await daemon.waitFor('store_resumed', line => line.by === 'root');
    await daemon.count('cleanup_done', 2);
    expect(existsSync(disk.at('mount/b'))).toBe(false);
  });
});
