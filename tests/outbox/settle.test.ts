/** Running to done, dead, or back to pending: fenced, in batches, in time that follows the rows settled. */
import { describe, expect, it } from 'vitest';
import {
  addWorker,
  claim,
  expire,
  fileDatabase,
  fill,
  only,
  put,
  type Running,
  STORE,
  settleBack,
  settleDead,
  settleDone,
  states,
  through,
  tuplesRead,
  value,
  waitsForLock,
} from './rows.ts';

const db = fileDatabase();

interface Pending {
  id: string;
  attempt: number;
  lost: number;
  put_back: string | null;
  last_error: string | null;
  first_due_at: Date;
  run_at: Date;
  due_at: Date;
  objects_deleted: string | null;
  bytes_freed: string | null;
}
const pendingRow = async () => only(await db.sql<Pending>('SELECT * FROM afterdelete.pending_file_cleanup'));

async function claimed(count: number): Promise<Running[]> {
  await fill(db, count);
  return await claim(db, await addWorker(db), count);
}

/** Statistics that say "empty" of a table that has had rows, and dead ones still: what makes a plain join quadratic. */
async function analyseWhileEmpty(): Promise<void> {
  await claimed(10_000);
  await db.sql('DELETE FROM afterdelete.running_file_cleanup');
  await db.sql('ANALYZE afterdelete.running_file_cleanup');
}

const stale = (row: Running) => ({ ...row, claim: String(BigInt(row.claim) - 1n) });

describe('settle_done()', () => {
  it('moves rows to done with their audit trail', async () => {
    await db.sql("SELECT afterdelete.enqueue('file:///a/b', source => 'why')");
    const worker = await addWorker(db, { stores: ['file://'] });
    const row = only(await claim(db, worker, 1, ['file://']));
    const ids = await db.sql(
      "SELECT id FROM afterdelete.settle_done('gpu-01/7', true, $1, $2, ARRAY['absent'], ARRAY[0], ARRAY[NULL::bigint], ARRAY['was already gone']) AS id",
      [[row.id], [row.claim]],
    );
    expect(ids).toEqual([{ id: [] }]);
    expect(only(await db.sql('SELECT * FROM afterdelete.done_file_cleanup'))).toMatchObject({
      id: row.id,
      target: 'file:///a/b',
      outcome: 'absent',
      attempt: 1,
      objects_deleted: '0',
      bytes_freed: null,
      source: 'why',
      actor: await value(db, 'SELECT session_user'),
      note: 'was already gone',
      worker: 'gpu-01/7',
    });
    expect(await states(db)).toEqual({ pending: 0, running: 0, done: 1, dead: 0 });
  });

  it('without history leaves no row at all', async () => {
    const row = only(await claimed(1));
    await db.sql(
      "SELECT afterdelete.settle_done('w', false, $1, $2, ARRAY['deleted'], ARRAY[1], ARRAY[1], ARRAY[NULL])",
      [[row.id], [row.claim]],
    );
    expect(await states(db)).toEqual({ pending: 0, running: 0, done: 0, dead: 0 });
  });

  it('refuses an unknown outcome, as an error of data, and settles nothing', async () => {
    const rows = await claimed(2);
    await expect(
      db.sql(
        "SELECT afterdelete.settle_done('w', true, $1, $2, ARRAY['deleted', 'vanished'], ARRAY[1, 1], ARRAY[1, 1], ARRAY[NULL, NULL])",
        [rows.map(row => row.id), rows.map(row => row.claim)],
      ),
    ).rejects.toMatchObject({ code: '23514', constraint: 'outcome_is_known' });
    expect(await states(db)).toMatchObject({ running: 2, done: 0 });
  });
});

describe.each([
  ['settle_done()', settleDone, 'done'],
  ['settle_back()', settleBack, 'pending'],
  ['settle_dead()', settleDead, 'dead'],
] as const)('%s', (_name, settle, state) => {
  it('with an old claim number changes nothing', async () => {
    const rows = await claimed(3);
    expect(await settle(db, rows.map(stale))).toEqual([]);
    expect(await states(db)).toEqual({ pending: 0, running: 3, done: 0, dead: 0 });
  });

  it('of a half-stale batch settles exactly its half', async () => {
    const rows = await claimed(100);
    const ids = await settle(
      db,
      rows.map((row, i) => (i % 2 === 0 ? row : stale(row))),
    );
    expect(new Set(ids)).toEqual(new Set(rows.filter((_, i) => i % 2 === 0).map(row => row.id)));
    expect(await states(db)).toEqual({ pending: 0, done: 0, dead: 0, running: 50, [state]: 50 });
  });

  it('of an id that is sent twice does it once', async () => {
    const rows = await claimed(2);
    const ids = await settle(db, [...rows, ...rows, ...rows]);
    expect([...ids].sort()).toEqual(rows.map(row => row.id).sort());
    expect(await states(db)).toEqual({ pending: 0, running: 0, done: 0, dead: 0, [state]: 2 });
  });

  it('of a row whose progress is just being written waits for that, and settles it', async () => {
    const rows = await claimed(10);
    const [heartbeat, settler] = [await db.connect(), await db.connect()];
    await heartbeat.query('BEGIN');
    await heartbeat.query('SELECT afterdelete.progress($1, $2, $3, $4)', [
      rows.slice(2, 5).map(row => row.id),
      rows.slice(2, 5).map(row => row.claim),
      [1, 1, 1],
      [1, 1, 1],
    ]);
    const settled = settle(through(settler), rows);
    await waitsForLock(db, settler);
    await heartbeat.query('COMMIT');
    expect([...(await settled)].sort()).toEqual(rows.map(row => row.id).sort());
    expect(await states(db)).toEqual({ pending: 0, running: 0, done: 0, dead: 0, [state]: 10 });
  });

  it('sent again changes nothing', async () => {
    const rows = await claimed(2);
    expect(await settle(db, rows)).toHaveLength(2);
    expect(await settle(db, rows)).toEqual([]);
    expect(await states(db)).toEqual({ pending: 0, running: 0, done: 0, dead: 0, [state]: 2 });
  });

  it('of nothing is nothing', async () => {
    expect(await settle(db, [])).toEqual([]);
  });

  it('by a worker whose row was taken over and claimed anew changes nothing', async () => {
    await fill(db, 1);
    const first = await addWorker(db);
    const old = await claim(db, first);
    await expire(db, first);
    await db.sql('SELECT afterdelete.reap()');
    const [row] = await claim(db, await addWorker(db));
    expect(row?.id).toBe(old[0]?.id);
    expect(await settle(db, old)).toEqual([]);
    expect(await states(db)).toEqual({ pending: 0, running: 1, done: 0, dead: 0 });
  });

  it('of 1,000 among 10,000 running rows, analysed while empty, reads about as many rows as it settles', async () => {
    await analyseWhileEmpty();
    const rows = await claimed(10_000);
    const client = await db.connect();
    const some = rows.filter((_, i) => i % 10 === 3);
    let settled: readonly unknown[] = [];
    const read = await tuplesRead(client, 'running_file_cleanup', async () => {
      settled = await settle(through(client), some);
    });
    expect(settled).toHaveLength(1_000);
    expect(read).toBeGreaterThanOrEqual(1_000);
    expect(read).toBeLessThanOrEqual(5_000);
  });
});

describe('settle_back()', () => {
  it.each([
    ['retry', 1, 'retry'],
    ['blocked', 0, 'blocked'],
    ['elsewhere', 0, 'blocked'],
    ['yielded', 0, 'yielded'],
    ['handed_back', 0, null],
  ])('for %s counts %i attempts and says %s', async (reason, attempt, putBack) => {
    const row = only(await claimed(1));
    await settleBack(db, [row], { reason, delay: 60_000, error: 'why', objects: 3, bytes: 30 });
    const back = await pendingRow();
    expect(back).toMatchObject({
      id: row.id,
      attempt,
      put_back: putBack,
      objects_deleted: '3',
      bytes_freed: '30',
    });
    expect(back.first_due_at).toEqual(row.first_due_at);
  });

  it('never makes a row due before now, and keeps when it was first due', async () => {
    const row = only(await claimed(1));
    const before = await value<Date>(db, 'SELECT clock_timestamp()');
    await settleBack(db, [row], { delay: 0 });
    const back = await pendingRow();
    expect(back.run_at.getTime()).toBeGreaterThanOrEqual(before.getTime());
    expect(back.due_at).toEqual(back.run_at);
    expect(back.first_due_at).toEqual(row.first_due_at);
    expect(row.first_due_at.getTime()).toBeLessThan(back.run_at.getTime());
  });

  it('waits for the delay', async () => {
    const row = only(await claimed(1));
    await settleBack(db, [row], { delay: 90_000 });
    expect(
      await value(
        db,
        "SELECT run_at - clock_timestamp() BETWEEN interval '80 s' AND interval '90 s' FROM afterdelete.pending_file_cleanup",
      ),
    ).toBe(true);
  });

  it('keeps the last error when there is no new one', async () => {
    const worker = await addWorker(db);
    await put(db);
    await settleBack(db, await claim(db, worker), { error: 'first' });
    await settleBack(db, await claim(db, worker), { reason: 'handed_back' });
    expect(await pendingRow()).toMatchObject({ attempt: 1, last_error: 'first' });
    await settleBack(db, await claim(db, worker), { error: 'second' });
    expect(await pendingRow()).toMatchObject({ attempt: 2, last_error: 'second' });
  });

  it.each([
    ['retry', 0],
    ['blocked', 0],
    ['yielded', 0],
    ['handed_back', 2],
  ])('for %s leaves lost at %i: what came back in good order killed nobody', async (reason, lost) => {
    const worker = await addWorker(db);
    await db.sql("INSERT INTO afterdelete.pending_file_cleanup (target, lost) VALUES ('fake://store/a', 2)");
    await settleBack(db, await claim(db, worker), { reason });
    expect(await pendingRow()).toMatchObject({ lost });
  });

  it('refuses an unknown reason, and NULL as delay, and puts nothing back', async () => {
    const rows = await claimed(1);
    await expect(settleBack(db, rows, { reason: 'tired' })).rejects.toMatchObject({
      constraint: 'put_back_is_a_known_reason',
    });
    await expect(settleBack(db, rows, { delay: Number.NaN })).rejects.toMatchObject({
      code: expect.stringMatching(/^22/),
    });
    expect(await states(db)).toMatchObject({ pending: 0, running: 1 });
  });

  it('wakes nobody, except for rows that another worker may take at once', async () => {
    const listener = await db.connect();
    const heard: unknown[] = [];
    listener.on('notification', message => heard.push(message.payload));
    await listener.query('LISTEN afterdelete');
    // Armed: a plain INSERT would notify.
    await listener.query('SELECT pg_advisory_lock(1634104420, hashtext($1))', [STORE]);
    const rows = await claimed(5);
    await listener.query('SELECT 1');
    heard.length = 0;
    for (const [i, reason] of ['retry', 'blocked', 'yielded'].entries())
      await settleBack(db, rows.slice(i, i + 1), { reason });
    await listener.query('SELECT 1');
    expect(heard).toEqual([]);
    await settleBack(db, rows.slice(3, 4), { reason: 'handed_back' });
    await settleBack(db, rows.slice(4), { reason: 'elsewhere' });
    await listener.query('SELECT 1');
    expect(heard).toEqual(['', '']);
    // The setting was the statement's alone.
    await put(db);
    await listener.query('SELECT 1');
    expect(heard).toEqual(['', '', '']);
  });
});

describe('settle_dead()', () => {
  it('moves rows to dead with the reason, the attempt counted', async () => {
    const worker = await addWorker(db);
    await put(db);
    await settleBack(db, await claim(db, worker), { objects: 1, bytes: 10 });
    const row = only(await claim(db, worker));
    await settleDead(db, [row], 'object lock');
    expect(only(await db.sql('SELECT * FROM afterdelete.dead_file_cleanup'))).toMatchObject({
      id: row.id,
      target: `${STORE}/a`,
      store: STORE,
      attempt: 2,
      last_error: 'object lock',
      first_due_at: row.first_due_at,
      worker: 'w',
      objects_deleted: '1',
      bytes_freed: '10',
    });
  });

  it('refuses a row without a reason', async () => {
    const rows = await claimed(1);
    await expect(
      db.sql("SELECT afterdelete.settle_dead('w', $1, $2, ARRAY[NULL], ARRAY[1], ARRAY[1])", [
        rows.map(r => r.id),
        rows.map(r => r.claim),
      ]),
    ).rejects.toMatchObject({ code: '23502' });
    expect(await states(db)).toMatchObject({ running: 1, dead: 0 });
  });
});

describe('progress()', () => {
  const progress = (rows: readonly Pick<Running, 'id' | 'claim'>[]) =>
    db.sql('SELECT afterdelete.progress($1, $2, $3, $4)', [
      rows.map(r => r.id),
      rows.map(r => r.claim),
      rows.map(() => 5),
      rows.map(() => 50),
    ]);

  it('survives the reaping of its worker', async () => {
    const worker = await addWorker(db);
    await fill(db, 1);
    await progress(await claim(db, worker));
    await expire(db, worker);
    await db.sql('SELECT afterdelete.reap()');
    expect(await pendingRow()).toMatchObject({ objects_deleted: '5', bytes_freed: '50', attempt: 0 });
  });

  it('of an old claim is not stored', async () => {
    const rows = await claimed(1);
    await progress(rows.map(stale));
    expect(await value(db, 'SELECT objects_deleted FROM afterdelete.running_file_cleanup')).toBeNull();
  });

  it('of 1,000 among 10,000 running rows, analysed while empty, reads about as many rows as it writes', async () => {
    await analyseWhileEmpty();
    const rows = (await claimed(10_000)).filter((_, i) => i % 10 === 3);
    const client = await db.connect();
    const read = await tuplesRead(client, 'running_file_cleanup', () =>
      client.query('SELECT afterdelete.progress($1, $2, $3, $4)', [
        rows.map(r => r.id),
        rows.map(r => r.claim),
        rows.map(() => 5),
        rows.map(() => 50),
      ]),
    );
    expect(read).toBeGreaterThanOrEqual(1_000);
    expect(read).toBeLessThanOrEqual(5_000);
    expect(
      await value(db, 'SELECT count(*)::int FROM afterdelete.running_file_cleanup WHERE objects_deleted = 5'),
    ).toBe(1_000);
  });
});
