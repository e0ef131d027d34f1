/** What services of any language call: INSERT, enqueue() and confirm(). */
import { describe, expect, it } from 'vitest';
import {
  addWorker,
  claim,
  fileDatabase,
  fill,
  only,
  put,
  STORE,
  settleBack,
  settleDead,
  states,
  value,
  waitsForLock,
} from './rows.ts';

const db = fileDatabase();

interface Pending {
  id: string;
  target: string;
  store: string;
  run_at: Date;
  created_at: Date;
  due_at: Date;
  prune_parents: number;
  source: string | null;
  actor: string;
  attempt: number;
}

const pending = () => db.sql<Pending>('SELECT * FROM afterdelete.pending_file_cleanup ORDER BY id');

describe('a plain INSERT', () => {
  it('needs nothing but the target', async () => {
    await db.sql("INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ('file:///data/a.bin')");
    const row = only(await pending());
    expect(row).toMatchObject({
      target: 'file:///data/a.bin',
      store: 'file://',
      prune_parents: 0,
      source: null,
      attempt: 0,
      last_error: null,
      first_due_at: null,
      objects_deleted: null,
      bytes_freed: null,
      actor: await value(db, 'SELECT session_user'),
    });
    expect(row.due_at.getTime()).toBeGreaterThanOrEqual(row.run_at.getTime());
    expect(row.due_at).toEqual(row.created_at);
  });

  it('takes every optional column', async () => {
    await db.sql(
      `INSERT INTO afterdelete.pending_file_cleanup (target, run_at, prune_parents, source, actor)
       VALUES ('file:///data/a/b', '2100-01-01', 32, 'training 7 deleted', 'alice')`,
    );
    expect(only(await pending())).toMatchObject({
      run_at: new Date('2100-01-01T00:00:00Z'),
      due_at: new Date('2100-01-01T00:00:00Z'),
      prune_parents: 32,
      source: 'training 7 deleted',
      actor: 'alice',
    });
  });

  it('with a time in the past is due when it is written, not before', async () => {
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target, run_at) VALUES ('s3://b/k', '2001-01-01'), ('s3://b/l', '-infinity')",
    );
    for (const row of await pending()) expect(row.due_at).toEqual(row.created_at);
  });

  it.each([
    ["('file:///a/b', -1)", 'prune_parents_is_0_to_32'],
    ["('file:///a/b', 33)", 'prune_parents_is_0_to_32'],
    ["('s3://b/k', 1)", 'prune_parents_is_for_files_only'],
    ["('filex://b/k', 1)", 'prune_parents_is_for_files_only'],
  ])('of %s is refused by %s', async (values, constraint) => {
    await expect(
      db.sql(`INSERT INTO afterdelete.pending_file_cleanup (target, prune_parents) VALUES ${values}`),
    ).rejects.toMatchObject({ code: '23514', constraint });
  });

  it('names the actor of the setting afterdelete.actor, and the session user when it is empty', async () => {
    const client = await db.connect();
    await client.query(
      "BEGIN; SET LOCAL afterdelete.actor = 'alice'; SELECT afterdelete.enqueue('s3://b/1'); COMMIT",
    );
    // After the transaction the setting is the empty string, not NULL.
    await client.query("SELECT afterdelete.enqueue('s3://b/2')");
    const session = await value(db, 'SELECT session_user');
    expect((await pending()).map(row => row.actor)).toEqual(['alice', session]);
  });

  it('cannot write what the database keeps', async () => {
    await expect(
      db.sql("INSERT INTO afterdelete.pending_file_cleanup (target, store) VALUES ('s3://b/1', 's3://c')"),
    ).rejects.toThrow();
    await expect(
      db.sql("INSERT INTO afterdelete.pending_file_cleanup (target, due_at) VALUES ('s3://b/1', now())"),
    ).rejects.toThrow();
  });

  it('that is rolled back, wholly or to a savepoint, leaves nothing', async () => {
    const client = await db.connect();
    await client.query(
      "BEGIN; INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ('s3://b/1'); ROLLBACK",
    );
    await client.query(
      "BEGIN; SAVEPOINT s; SELECT afterdelete.enqueue('s3://b/2'); ROLLBACK TO s; SELECT afterdelete.enqueue('s3://b/3'); COMMIT",
    );
    expect((await pending()).map(row => row.target)).toEqual(['s3://b/3']);
  });
});

describe('enqueue()', () => {
  it('writes one row with its defaults and returns its id', async () => {
    const id = await value<string>(db, "SELECT afterdelete.enqueue('s3://b/k')");
    expect(only(await pending())).toMatchObject({
      id,
      target: 's3://b/k',
      prune_parents: 0,
      source: null,
      attempt: 0,
    });
  });

  it('takes its arguments by name, and waits for the delay', async () => {
    await db.sql(
      "SELECT afterdelete.enqueue(source => 'why', target => 'file:///a/b/c', prune_parents => 2, delay => '2 hours')",
    );
    const row = only(await pending());
    expect(row).toMatchObject({ source: 'why', prune_parents: 2 });
    expect(
      await value(
        db,
        "SELECT run_at - created_at BETWEEN interval '1:59:59' AND interval '2 hours' FROM afterdelete.pending_file_cleanup",
      ),
    ).toBe(true);
  });

  it.each(['33', '-1', '70000'])('refuses to prune %s parents', async levels => {
    await expect(
      db.sql(`SELECT afterdelete.enqueue('file:///a', prune_parents => ${levels})`),
    ).rejects.toThrow();
    expect(await pending()).toEqual([]);
  });

  it.each(['target', 'delay', 'prune_parents'])('refuses NULL as %s', async name => {
    const target = name === 'target' ? '' : "target => 's3://b/k', ";
    await expect(db.sql(`SELECT afterdelete.enqueue(${target}${name} => NULL)`)).rejects.toMatchObject({
      code: '23502',
    });
  });

  it('names the rule that a bad target breaks', async () => {
    await expect(db.sql("SELECT afterdelete.enqueue('s3://b/../k')")).rejects.toMatchObject({
      constraint: 'target_has_no_dot_segments',
    });
  });
});

describe('confirm()', () => {
  it('ends a reservation with its transaction: done, discarded, confirmed', async () => {
    const id = await put(db, 's3://b/upload', '1 hour');
    const client = await db.connect();
    await client.query('BEGIN');
    await client.query('SELECT afterdelete.confirm($1)', [id]);
    expect(await states(db)).toMatchObject({ pending: 1, done: 0 });
    await client.query('COMMIT');
    expect(await states(db)).toMatchObject({ pending: 0, done: 1 });
    expect(only(await db.sql('SELECT * FROM afterdelete.done_file_cleanup'))).toMatchObject({
      id,
      target: 's3://b/upload',
      outcome: 'discarded',
      note: 'confirmed',
      attempt: 0,
      worker: null,
    });
  });

  it('rolled back leaves the reservation standing', async () => {
    const id = await put(db, 's3://b/upload', '1 hour');
    const client = await db.connect();
    await client.query('BEGIN');
    await client.query('SELECT afterdelete.confirm($1)', [id]);
    await client.query('ROLLBACK');
    expect(await states(db)).toMatchObject({ pending: 1, done: 0 });
  });

  it('of a reservation that is due but not claimed still succeeds', async () => {
    const id = await put(db, 's3://b/upload');
    await db.sql('SELECT afterdelete.confirm($1)', [id]);
    expect(await states(db)).toMatchObject({ pending: 0, done: 1 });
  });

  it('after the claim raises, and says what happened and what to do', async () => {
    const worker = await addWorker(db);
    const id = await put(db);
    await claim(db, worker);
    const error = await db.sql('SELECT afterdelete.confirm($1)', [id]).catch(e => e);
    expect(error).toMatchObject({ code: '55000' });
    expect(error.message).toContain(id);
    expect(error.message).toMatch(/no longer pending/);
    expect(error.detail).toMatch(/fell due/);
    expect(error.hint).toMatch(/longer delay/);
  });

  it.each(['twice', 'an unknown id', 'NULL'])('of %s raises', async what => {
    const id = await put(db, 's3://b/upload', '1 hour');
    await db.sql('SELECT afterdelete.confirm($1)', [id]);
    const other = { twice: id, 'an unknown id': '9000000000', NULL: null }[what];
    await expect(db.sql('SELECT afterdelete.confirm($1::bigint)', [other])).rejects.toMatchObject({
      code: '55000',
    });
  });

  it('of a dead row raises', async () => {
    const id = await put(db);
    await settleDead(db, await claim(db, await addWorker(db)));
    await expect(db.sql('SELECT afterdelete.confirm($1)', [id])).rejects.toMatchObject({ code: '55000' });
  });

  it.each(['retry', 'yielded', 'blocked', 'handed_back'])(
    'of a row that a worker had in hand and put back (%s) raises: part of the upload may be gone',
    async reason => {
      const id = await put(db);
      const worker = await addWorker(db);
      await settleBack(db, await claim(db, worker), { reason, delay: 3_600_000, objects: 5, error: 'why' });
      await expect(db.sql('SELECT afterdelete.confirm($1)', [id])).rejects.toMatchObject({ code: '55000' });
      expect(await states(db)).toMatchObject({ pending: 1, done: 0 });
    },
  );

  it('while a claim is under way waits for it, and raises when it commits', async () => {
    const worker = await addWorker(db);
    const id = await put(db);
    const [claimer, writer] = [await db.connect(), await db.connect()];
    await claimer.query('BEGIN');
    await claimer.query('SELECT * FROM afterdelete.claim($1, $2, $3)', [worker, [STORE], [1]]);
    const confirmed = writer.query('SELECT afterdelete.confirm($1)', [id]).then(
      () => 'confirmed',
      (error: { code: string }) => error.code,
    );
    await waitsForLock(db, writer);
    await claimer.query('COMMIT');
    expect(await confirmed).toBe('55000');
    expect(await states(db)).toMatchObject({ pending: 0, running: 1, done: 0 });
  });

  it('while a claim is under way succeeds when that rolls back', async () => {
    const worker = await addWorker(db);
    const id = await put(db);
    const [claimer, writer] = [await db.connect(), await db.connect()];
    await claimer.query('BEGIN');
    await claimer.query('SELECT * FROM afterdelete.claim($1, $2, $3)', [worker, [STORE], [1]]);
    const confirmed = writer.query('SELECT afterdelete.confirm($1)', [id]);
    await waitsForLock(db, writer);
    await claimer.query('ROLLBACK');
    await confirmed;
    expect(await states(db)).toMatchObject({ pending: 0, running: 0, done: 1 });
  });

  it('in flight keeps the row from being claimed', async () => {
    const worker = await addWorker(db);
    await fill(db, 2);
    const [{ id }] = (await pending()) as [Pending];
    const writer = await db.connect();
    await writer.query('BEGIN');
    await writer.query('SELECT afterdelete.confirm($1)', [id]);
    expect((await claim(db, worker)).map(row => row.id)).not.toContain(id);
    await writer.query('COMMIT');
    expect(await claim(db, worker)).toEqual([]);
    expect(await states(db)).toEqual({ pending: 0, running: 1, done: 1, dead: 0 });
  });
});
