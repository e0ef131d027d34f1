import { once } from 'node:events';
import { describe, expect, it } from 'vitest';
import { runCommand, spawnCommand } from '../support/command.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';

const run = (db: TestDatabase, ...args: string[]) => runCommand(args, { env: { DATABASE_URL: db.url } });

/** One row of each kind: 1 due, 2 delayed, 3 waiting after an attempt, 4 running, 5 and 6 dead, 7 done. */
async function writeOneOfEach(): Promise<TestDatabase> {
  const db = await createDatabase();
  await db.sql(`
    INSERT INTO afterdelete.pending_file_cleanup (id, target, run_at, attempt, put_back, last_error) VALUES
      (1, 's3://a/due', now(), 0, NULL, NULL),
      (2, 's3://a/delayed', now() + interval '1 day', 0, NULL, NULL),
      (3, 's3://a/waiting', now() + interval '1 hour', 2, 'retry', 'slow down');
    INSERT INTO afterdelete.running_file_cleanup (id, claim, worker, claimed_at, target, store, prune_parents, attempt, lost,
      created_at, first_due_at) VALUES (4, 1, 1, now(), 's3://a/running', 's3://a', 0, 0, 0, now(), now());
    INSERT INTO afterdelete.dead_file_cleanup (id, target, attempt, last_error, created_at, died_at) VALUES
      (5, 's3://a/dead', 1, 'denied', now(), now()), (6, 's3://b/dead', 1, 'denied', now(), now());
    INSERT INTO afterdelete.done_file_cleanup (id, target, outcome, attempt, created_at, done_at) VALUES
      (7, 's3://a/done', 'deleted', 1, now(), now());`);
  return db;
}

const states = `
  SELECT id::int, 'pending' AS state FROM afterdelete.pending_file_cleanup UNION ALL
  SELECT id::int, 'dead' FROM afterdelete.dead_file_cleanup UNION ALL
  SELECT id::int, outcome FROM afterdelete.done_file_cleanup ORDER BY id`;

describe('retry', () => {
  it('makes what is dead or waits due now, and says of the others why not', async () => {
    const db = await writeOneOfEach();
    const { code, stdout, stderr } = await run(db, 'retry', '1', '2', '3', '4', '5', '7', '99', '5');
    expect(code).toBe(1);
    expect(stdout).toBe('3  retried, due now  "s3://a/waiting"\n5  retried, due now  "s3://a/dead"\n');
    expect(stderr.split('\n')).toEqual([
      '1  not changed: it is pending and due: nothing to wait for  "s3://a/due"',
      expect.stringMatching(
        /^2 {2}not changed: it is pending, delayed, and due in 23h 59m: it has not failed, and keeps its delay/,
      ),
      '4  not changed: it is running: a worker that has vanished has it in hand  "s3://a/running"',
      '7  not changed: it is done: deleted  "s3://a/done"',
      expect.stringMatching(/^99 {2}not changed: there is no cleanup 99/),
      '',
    ]);
    expect(
      await db.sql(
        'SELECT id::int, attempt FROM afterdelete.pending_file_cleanup WHERE due_at <= now() ORDER BY id',
      ),
    ).toEqual([
      { id: 1, attempt: 0 },
      { id: 3, attempt: 0 },
      { id: 5, attempt: 0 },
    ]);
  });

  it('leaves alone what no retry can help: nobody knows what it would have to delete', async () => {
    const db = await createDatabase();
    await db.sql(`CREATE TABLE t (id text);
      SELECT afterdelete.watch('t', 's3://b/{id}/x');
      INSERT INTO t VALUES ('..');
      DELETE FROM t`);
    const [{ id }] = (await db.sql('SELECT id FROM afterdelete.dead_file_cleanup')) as [{ id: string }];
    const { code, stderr } = await run(db, 'retry', id);
    expect(code).toBe(1);
    expect(stderr).toMatch(
      /not changed: it is dead: 's3:\/\/b\/{id}\/x' rendered to something that is no target/,
    );
    expect(await run(db, 'retry', '--all')).toMatchObject({ code: 0, stdout: '0 dead cleanups retried\n' });
    await expect(db.sql('SELECT afterdelete.retry($1)', [id])).rejects.toThrow(
      `cleanup ${id} cannot be retried: nobody knows what it would have to delete`,
    );
    expect(await run(db, 'discard', id)).toMatchObject({ code: 0 });
  });

  it('--all retries what is dead; with --store, of that one', async () => {
    const db = await writeOneOfEach();
    expect(await run(db, 'retry', '--all', '--store', 's3://b')).toEqual({
      code: 0,
      stdout: '1 dead cleanup of s3://b retried\n',
      stderr: '',
    });
    expect(await db.sql('SELECT id::int FROM afterdelete.dead_file_cleanup')).toEqual([{ id: 5 }]);
    await db.sql(`INSERT INTO afterdelete.dead_file_cleanup (id, target, attempt, last_error, created_at, died_at)
      SELECT i, 's3://c/' || i, 1, 'denied', now(), now() FROM generate_series(100, 2599) i`);
    expect(await run(db, 'retry', '--all')).toMatchObject({
      code: 0,
      stdout: '2501 dead cleanups retried\n',
    });
    expect(await run(db, 'retry', '--all')).toMatchObject({ code: 0, stdout: '0 dead cleanups retried\n' });
  });
});

describe('cancel', () => {
  it.each(['stdout', 'stderr'] as const)(
    'goes on to the last id when nobody reads %s any more',
    async name => {
      const db = await createDatabase();
      await db.sql(`INSERT INTO afterdelete.pending_file_cleanup (id, target)
      SELECT i, 's3://a/' || i FROM generate_series(1, 40) i WHERE i % 2 = 0`);
      const ids = Array.from({ length: 40 }, (_, i) => String(i + 1));
      const command = spawnCommand(['cancel', ...ids], { env: { DATABASE_URL: db.url } });
      const exit = once(command, 'close');
      await once(command[name], 'data');
      command[name].destroy();
      expect(await exit).toEqual([1, null]);
      expect(await db.sql('SELECT id FROM afterdelete.pending_file_cleanup')).toEqual([]);
    },
  );

  it('gives up what is pending, and says of the others why not', async () => {
    const db = await writeOneOfEach();
    const { code, stdout, stderr } = await run(db, 'cancel', '1', '2', '3', '4', '5');
    expect(code).toBe(1);
    expect(stdout.split('\n')).toEqual([
      '1  cancelled, the target stays  "s3://a/due"',
      '2  cancelled, the target stays  "s3://a/delayed"',
      '3  cancelled, the target stays  "s3://a/waiting"',
      '',
    ]);
    expect(stderr).toMatch(/^4 {2}not changed: it is running: .*, too late/);
    expect(stderr).toContain('5  not changed: it is dead: denied. Give it up with `afterdelete discard`');
    expect(await db.sql(states)).toEqual([
      ...[1, 2, 3].map(id => ({ id, state: 'discarded' })),
      ...[5, 6].map(id => ({ id, state: 'dead' })),
      { id: 7, state: 'deleted' },
    ]);
    expect(await run(db, 'cancel', '1')).toMatchObject({
      code: 1,
      stderr: '1  not changed: it is done: discarded (cancelled)  "s3://a/due"\n',
    });
  });
});

describe('discard', () => {
  it('gives up what is dead, with a note, and says of the others why not', async () => {
    const db = await writeOneOfEach();
    expect(await run(db, 'discard', '5', '6', '--note', 'bucket is gone')).toMatchObject({
      code: 0,
      stderr: '',
    });
    expect(await db.sql('SELECT note FROM afterdelete.done_file_cleanup WHERE id = 5')).toEqual([
      { note: 'discarded: bucket is gone; it was dead: denied' },
    ]);
    const refused = await run(db, 'discard', '1');
    expect(refused).toMatchObject({ code: 1, stdout: '' });
    expect(refused.stderr).toContain(
      '1  not changed: it is pending and due. Give it up with `afterdelete cancel`',
    );
  });
});

describe('pause and resume', () => {
  it('pause for all daemons until resumed', async () => {
    const db = await writeOneOfEach();
    const paused = await run(db, 'pause', 's3://a', '--reason', 'backup');
    expect(paused).toEqual({
      code: 0,
      stdout: 's3://a is paused for all daemons until `afterdelete resume s3://a`\n',
      stderr: '',
    });
    expect(await db.sql('SELECT store, paused_by, reason FROM afterdelete.store_pause')).toEqual([
      { store: 's3://a', paused_by: 'operator', reason: 'backup' },
    ]);
    expect(await run(db, 'resume', 's3://a')).toMatchObject({ code: 0, stdout: 's3://a is resumed\n' });
    expect(await db.sql('SELECT FROM afterdelete.store_pause')).toEqual([]);
    expect(await run(db, 'resume', 's3://a')).toMatchObject({ code: 0, stdout: 's3://a was not paused\n' });
  });

  it('say that a fuse starts a new window', async () => {
    const db = await writeOneOfEach();
    await db.sql("SELECT FROM afterdelete.spend('s3://a', '{s3://a/}', '{2}', 1, '1 hour')");
    expect(await run(db, 'resume', 's3://a')).toEqual({
      code: 0,
      stdout: 's3://a is resumed, and its fuse starts a new window\n',
      stderr: '',
    });
    expect(await db.sql('SELECT FROM afterdelete.fuse_count')).toEqual([]);
  });

  it('ask whether a store that nobody knows is spelled right', async () => {
    const db = await writeOneOfEach();
    const { code, stdout } = await run(db, 'pause', 's3://typo');
    expect(code).toBe(0);
    expect(stdout).toContain('is it spelled right? Known: s3://a, s3://b');
  });
});
