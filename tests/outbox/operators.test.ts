/** What people call: cancel, retry, discard, pause and resume. */
import { describe, expect, it } from 'vitest';
import {
  addDead,
  addWorker,
  claim,
  fileDatabase,
  only,
  put,
  STORE,
  settleBack,
  settleDone,
  states,
  value,
} from './rows.ts';

const db = fileDatabase();
const pendingRow = async () => only(await db.sql('SELECT * FROM afterdelete.pending_file_cleanup'));
const doneRow = async () => only(await db.sql('SELECT * FROM afterdelete.done_file_cleanup'));
const call = (fn: string, ...args: unknown[]) =>
  value<boolean>(db, `SELECT afterdelete.${fn}(${args.map((_, i) => `$${i + 1}`).join(', ')})`, args);

/** One row in each state, by state. */
async function oneOfEach(): Promise<Record<'pending' | 'running' | 'done' | 'dead', string>> {
  const worker = await addWorker(db);
  const done = await put(db, `${STORE}/done`);
  await settleDone(db, await claim(db, worker));
  const dead = await addDead(db, worker);
  const running = await put(db, `${STORE}/running`);
  await claim(db, worker);
  const pending = await put(db, `${STORE}/pending`, '1 hour');
  return { pending, running, done, dead };
}

describe('cancel()', () => {
  it('moves a pending row to done as discarded, with the note and who wrote it', async () => {
    const id = await value<string>(
      db,
      "INSERT INTO afterdelete.pending_file_cleanup (target, source, actor) VALUES ('s3://b/k', 'why', 'alice') RETURNING id",
    );
    expect(await call('cancel', id, 'not after all')).toBe(true);
    expect(await states(db)).toMatchObject({ pending: 0, done: 1 });
    expect(await doneRow()).toMatchObject({
      id,
      outcome: 'discarded',
      attempt: 0,
      source: 'why',
      actor: 'alice',
      note: 'cancelled: not after all',
      worker: null,
    });
  });

  it('needs no note', async () => {
    expect(await call('cancel', await put(db))).toBe(true);
    expect(await doneRow()).toMatchObject({ note: 'cancelled' });
  });

  it('of a row that has been tried keeps what is known of it', async () => {
    const id = await put(db);
    await settleBack(db, await claim(db, await addWorker(db)), {
      delay: 60_000,
      objects: 7,
      bytes: 70,
      error: 'slow',
    });
    expect(await call('cancel', id)).toBe(true);
    expect(await doneRow()).toMatchObject({
      outcome: 'discarded',
      attempt: 1,
      objects_deleted: '7',
      bytes_freed: '70',
    });
  });

  it('is for pending rows only', async () => {
    const ids = await oneOfEach();
    for (const id of [ids.running, ids.done, ids.dead, '9000000000', null])
      expect(await call('cancel', id)).toBe(false);
    expect(await states(db)).toEqual({ pending: 1, running: 1, done: 1, dead: 1 });
  });
});

describe('retry()', () => {
  it('of a dead row starts it anew: same id, due now, attempts from 0', async () => {
    const id = await value<string>(
      db,
      "SELECT afterdelete.enqueue('file:///a/b', prune_parents => 3, source => 'why')",
    );
    const worker = await addWorker(db, { stores: ['file://'] });
    await db.sql("SELECT afterdelete.settle_dead('w', $1, $2, ARRAY['denied'], ARRAY[2], ARRAY[20])", [
      [id],
      (await claim(db, worker, 1, ['file://'])).map(row => row.claim),
    ]);
    const before = only(await db.sql<{ created_at: Date }>('SELECT * FROM afterdelete.dead_file_cleanup'));
    expect(await call('retry', id)).toBe(true);
    expect(await states(db)).toEqual({ pending: 1, running: 0, done: 0, dead: 0 });
    expect(await pendingRow()).toMatchObject({
      id,
      target: 'file:///a/b',
      attempt: 0,
      lost: 0,
      prune_parents: 3,
      source: 'why',
      created_at: before.created_at,
      last_error: 'denied',
      objects_deleted: '2',
      bytes_freed: '20',
    });
    expect(only(await claim(db, worker, 1, ['file://']))).toMatchObject({ id, attempt: 0 });
  });

  it.each(['retry', 'blocked', 'yielded'])(
    'of a row that waits (%s) makes it due now, attempts from 0',
    async reason => {
      const id = await put(db);
      const worker = await addWorker(db);
      await settleBack(db, await claim(db, worker), { reason, delay: 3_600_000, error: 'busy' });
      expect(await claim(db, worker)).toEqual([]);
      expect(await call('retry', id)).toBe(true);
      expect(only(await claim(db, worker))).toMatchObject({ id, attempt: 0 });
    },
  );

  it('keeps the time at which a waiting row was first due', async () => {
    const id = await put(db);
    const worker = await addWorker(db);
    const [row] = await claim(db, worker);
    await settleBack(db, row ? [row] : [], { delay: 3_600_000 });
    await call('retry', id);
    expect(only(await claim(db, worker)).first_due_at).toEqual(row?.first_due_at);
  });

  it('of a delayed row is false, and it keeps its delay', async () => {
    const id = await put(db, 's3://b/upload', '1 hour');
    const before = await pendingRow();
    expect(await call('retry', id)).toBe(false);
    expect(await pendingRow()).toEqual(before);
  });

  it('is false for rows that run or are done, and for unknown ones', async () => {
    const ids = await oneOfEach();
    for (const id of [ids.running, ids.done, '9000000000', null]) expect(await call('retry', id)).toBe(false);
    expect(await states(db)).toEqual({ pending: 1, running: 1, done: 1, dead: 1 });
  });

  it('rolled back changes nothing', async () => {
    const id = await addDead(db, await addWorker(db));
    const client = await db.connect();
    await client.query('BEGIN');
    await client.query('SELECT afterdelete.retry($1)', [id]);
    await client.query('ROLLBACK');
    expect(await states(db)).toMatchObject({ pending: 0, dead: 1 });
  });
});

describe('discard()', () => {
  it('moves a dead row to done as discarded, and says why it was dead', async () => {
    const id = await addDead(db, await addWorker(db), 'access denied');
    expect(await call('discard', id, 'bucket is gone')).toBe(true);
    expect(await states(db)).toMatchObject({ dead: 0, done: 1 });
    expect(await doneRow()).toMatchObject({ id, outcome: 'discarded', attempt: 1, worker: null });
    expect((await doneRow()).note).toMatch(/bucket is gone.*access denied/);
  });

  it('needs no note', async () => {
    expect(await call('discard', await addDead(db, await addWorker(db)))).toBe(true);
    expect((await doneRow()).note).toMatch(/access denied/);
  });

  it('is for dead rows only', async () => {
    const ids = await oneOfEach();
    for (const id of [ids.pending, ids.running, ids.done, '9000000000', null])
      expect(await call('discard', id)).toBe(false);
    expect(await states(db)).toEqual({ pending: 1, running: 1, done: 1, dead: 1 });
  });
});

describe('pause() and resume()', () => {
  it('leave a store out of every claim until it is resumed, and no other', async () => {
    const worker = await addWorker(db);
    const stores = [STORE, 's3://other'];
    await db.sql("SELECT afterdelete.pause($1, 'maintenance')", [STORE]);
    await put(db);
    await put(db, 's3://other/k');
    expect((await claim(db, worker, 10, stores)).map(row => row.target)).toEqual(['s3://other/k']);
    await db.sql('SELECT afterdelete.resume($1)', [STORE]);
    expect((await claim(db, worker, 10, stores)).map(row => row.target)).toEqual([`${STORE}/a`]);
  });

  it('record who paused it and why; pausing anew replaces the reason', async () => {
    const client = await db.connect();
    await client.query("SET afterdelete.actor = 'alice'");
    await client.query("SELECT afterdelete.pause('s3://b')");
    const select = 'SELECT store, paused_by, reason, actor FROM afterdelete.store_pause';
    expect(await db.sql(select)).toEqual([
      { store: 's3://b', paused_by: 'operator', reason: null, actor: 'alice' },
    ]);
    await db.sql("SELECT afterdelete.pause('s3://b', 'again')");
    const actor = await value(db, 'SELECT session_user');
    expect(await db.sql(select)).toEqual([
      { store: 's3://b', paused_by: 'operator', reason: 'again', actor },
    ]);
  });

  it.each(['s3://b/', 's3://b/key', 'bucket', '', 'S3://b', null])(
    'refuse %j as a store, and say what one is',
    async store => {
      const error = await db.sql('SELECT afterdelete.pause($1)', [store]).catch(e => e);
      expect(error).toMatchObject({ code: '22023' });
      expect(error.hint).toMatch(/s3:\/\/bucket/);
    },
  );

  it.each(['file://', 'file://gpu-01', 's3://bucket', 'h2+x.y-z://a'])('take %s as a store', async store => {
    await db.sql('SELECT afterdelete.pause($1)', [store]);
    await db.sql('SELECT afterdelete.resume($1)', [store]);
    expect(await db.sql('SELECT FROM afterdelete.store_pause')).toEqual([]);
  });

  it('do nothing when a store is not paused', async () => {
    await db.sql("SELECT afterdelete.resume('s3://never')");
  });

  it('notify the daemons that sleep', async () => {
    const client = await db.connect();
    const heard: (string | undefined)[] = [];
    client.on('notification', message => heard.push(message.payload));
    await client.query('LISTEN afterdelete');
    for (const fn of ['pause', 'resume']) await client.query(`SELECT afterdelete.${fn}('s3://b')`);
    await client.query('SELECT 1');
    expect(heard).toEqual(['pauses', 'pauses']);
  });
});
