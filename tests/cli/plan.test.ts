import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { runCommand } from '../support/command.ts';
import { startDaemon } from '../support/daemon.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { createDisk } from '../support/disk.ts';

/** A root that a daemon has served, so that its mark is there and on record. */
async function createServedRoot() {
  const db = await createDatabase();
  const disk = createDisk();
  const daemon = startDaemon({ databaseUrl: db.url, roots: [disk.root] });
  await daemon.waitFor('started');
  await daemon.stop();
  return { db, disk };
}

const plan = (db: TestDatabase, root: string, ...ids: string[]) =>
  runCommand(['plan', ...ids], { env: { DATABASE_URL: db.url, AFTERDELETE_ROOTS: root } });

const enqueue = (db: TestDatabase, target: string, delay = '0') =>
  db.sql('SELECT afterdelete.enqueue($1, $2)', [target, delay]);

describe('plan', () => {
  it('shows what would be deleted, and touches nothing', async () => {
    const { db, disk } = await createServedRoot();
    disk.write('tree/a', 'x'.repeat(5000));
    disk.write('tree/b/c', 'x'.repeat(5000));
    await enqueue(db, `${disk.root}later`, '2 hours');
    await enqueue(db, `${disk.root}tree/`);
    await enqueue(db, disk.write('folder/file').replace(/\/file$/, ''));
    await enqueue(db, 'file:///somewhere/else');
    await enqueue(db, 's3://nobody/serves');
    const before = await db.sql('SELECT * FROM afterdelete.pending_file_cleanup ORDER BY id');
    const { code, stdout, stderr } = await plan(db, disk.root);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const [tree, folder, outside, unserved, later] = stdout
      .split(/\n(?=\d)/)
      .map(text => text.trim().split('\n'));
    expect(tree).toEqual([
      `2  "${disk.root}tree/"`,
      expect.stringMatching(/^ {2}when: now, due for \d+s$/),
      '  guard: no watches are declared, so no row holds it',
      `  root: ${disk.root}`,
      expect.stringMatching(/^ {2}deletes: 2 objects, \d+(\.\d+)? KiB$/),
    ]);
    expect(folder?.join('\n')).toMatch(/problem: .*directory/);
    expect(outside?.join('\n')).toMatch(/root: none\n {2}problem: .*outside every root/);
    expect(unserved?.join('\n')).toMatch(/root: none\n {2}problem: neither these settings nor a live daemon/);
    expect(later?.join('\n')).toMatch(
      /when: in 1h 59m, \d{4}-.*Z\n {2}guard: .*\n.*\n {2}deletes: nothing: it is already gone/,
    );
    expect(await db.sql('SELECT * FROM afterdelete.pending_file_cleanup ORDER BY id')).toEqual(before);
    expect(readFileSync(disk.at('tree/b/c'), 'utf8')).toHaveLength(5000);
  });

  it('of ids that are not pending says in which state they are; an unknown one is a failure', async () => {
    const { db, disk } = await createServedRoot();
    await db.sql(`INSERT INTO afterdelete.dead_file_cleanup (id, target, attempt, last_error, created_at, died_at)
      VALUES (5, 's3://a/dead', 1, 'denied', now(), now())`);
    await enqueue(db, `${disk.root}a`);
    expect(await plan(db, disk.root, '1', '5')).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('5  "s3://a/dead"\n  it is dead: denied\n'),
    });
    const { code, stdout, stderr } = await plan(db, disk.root, '1', '77');
    expect(code).toBe(1);
    expect(stdout).toContain('deletes: nothing: it is already gone');
    expect(stderr).toContain('there is no cleanup 77');
  });

  it('tells what the first daemon would delete in a root that none has served, and writes no mark', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    await enqueue(db, disk.write('a'));
    const { code, stdout } = await plan(db, disk.root);
    expect(code).toBe(0);
    expect(stdout).toMatch(
      /root: .*\/, which no daemon has served yet: the first one marks it\n {2}deletes: 1 object, /,
    );
    expect(stdout).not.toContain('problem');
    expect(existsSync(disk.at('.afterdelete-root'))).toBe(false);
    expect(existsSync(disk.at('a'))).toBe(true);
  });

  it('promises no empty parents where the target itself cannot be deleted', async () => {
    const { db, disk } = await createServedRoot();
    disk.write('a/b/folder/file');
    for (const name of ['a/b/folder', 'a/b/gone']) {
      await db.sql('SELECT afterdelete.enqueue($1, prune_parents => 2)', [disk.root + name]);
    }
    const { stdout } = await plan(db, disk.root);
    expect(stdout).toMatch(/deletes: 0 objects, 0 B\n {2}problem: .* is a directory/);
    expect(stdout).toContain('deletes: nothing: it is already gone, then up to 2 empty parents\n');
  });

  it('says what the guard says: kept, blocked and by whom, or nobody', async () => {
    const { db, disk } = await createServedRoot();
    await db.sql('CREATE TABLE trainings (id text PRIMARY KEY)');
    await db.sql("SELECT afterdelete.watch('trainings', $1)", [`${disk.root}all/{id}/`]);
    await db.sql("INSERT INTO trainings VALUES ('t1')");
    for (const name of ['all/t1/', 'all/', 'free']) await enqueue(db, disk.root + name);
    const { stdout } = await plan(db, disk.root);
    expect(stdout.match(/guard: .*/g)).toEqual([
      'guard: kept: public.trainings {"id": "t1"} holds it',
      `guard: blocked: public.trainings {"id": "t1"} holds ${disk.root}all/t1/ below it`,
      'guard: nobody holds it',
    ]);
    const { stdout: one } = await plan(db, disk.root, '2');
    expect(one.match(/guard: .*/g)).toHaveLength(1);
  });

  it('says that nothing is pending', async () => {
    const db = await createDatabase();
    expect(await plan(db, 'file:///tmp/x/')).toEqual({ code: 0, stdout: 'nothing is pending\n', stderr: '' });
  });
});
