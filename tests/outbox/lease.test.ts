/** Workers that vanish: nothing they held is lost, and a row that kills its worker is found. */
import { describe, expect, it } from 'vitest';
import {
  addWorker,
  claim,
  expire,
  fileDatabase,
  fill,
  only,
  openOutbox,
  put,
  STORE,
  settleBack,
  states,
  through,
  value,
  waitsForLock,
} from './rows.ts';

const db = fileDatabase();
const reap = async () =>
  only(await db.sql<{ workers: number; moved: number; died: number }>('SELECT * FROM afterdelete.reap()'));
const heartbeat = async (worker: string) =>
  only(
    await db.sql<{ alive: boolean; suspects: boolean }>("SELECT * FROM afterdelete.heartbeat($1, '1 hour')", [
      worker,
    ]),
  );
const pendingRow = async () => only(await db.sql('SELECT * FROM afterdelete.pending_file_cleanup'));

describe('reap()', () => {
  it('gives each worker its lease once more from the start of the server on: while that was away none could be renewed', async () => {
    const [long, short] = [await addWorker(db), await addWorker(db)];
    const ended = (lease: string) =>
      `UPDATE afterdelete.worker SET heartbeat_at = clock_timestamp() - interval '1 s' - interval '${lease}',
         lease_until = clock_timestamp() - interval '1 s' WHERE id = $1`;
    await db.sql(ended('1000 years'), [long]);
    await db.sql(ended('1 ms'), [short]);
    expect(await reap()).toEqual({ workers: 1, moved: 0, died: 0 });
    expect(await db.sql('SELECT id FROM afterdelete.worker')).toEqual([{ id: long }]);
    // Until then it may claim, and its roots are nobody else's.
    await put(db);
    expect(await claim(db, long)).toHaveLength(1);
    expect(await openOutbox(db.url).outbox.liveRoots()).toEqual([`${STORE}/`]);
    const told = async () => [
      ...(await db.sql('SELECT served FROM afterdelete.backlog')),
      ...(await db.sql('SELECT reason FROM afterdelete.stuck')),
    ];
    expect(await told()).toEqual([{ served: true }]);
    await db.sql(ended('1 ms'), [long]);
    expect(await told()).toEqual([{ served: false }, { reason: 'lost' }]);
    expect(await reap()).toEqual({ workers: 1, moved: 1, died: 0 });
  });

  it('moves the rows of a vanished worker back: no attempt, lost once more, due now, first due as before', async () => {
    const worker = await addWorker(db);
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target, source, actor, attempt, last_error) VALUES ('fake://store/a', 'why', 'alice', 2, 'busy')",
    );
    const row = only(await claim(db, worker));
    await expire(db, worker);
    expect(await reap()).toEqual({ workers: 1, moved: 1, died: 0 });
    const back = await pendingRow();
    expect(back).toMatchObject({
      id: row.id,
      attempt: 2,
      lost: 1,
      put_back: 'lost',
      first_due_at: row.first_due_at,
      source: 'why',
      actor: 'alice',
    });
    expect(back.last_error).toMatch(/worker vanished.*busy/);
    expect(await claim(db, await addWorker(db))).toHaveLength(1);
  });

  it('leaves live workers and their rows', async () => {
    const worker = await addWorker(db);
    await fill(db, 3);
    await claim(db, worker);
    expect(await reap()).toEqual({ workers: 0, moved: 0, died: 0 });
    expect(await states(db)).toMatchObject({ running: 3 });
  });

  it('moves rows whose worker has no row at all any more', async () => {
    const worker = await addWorker(db);
    await fill(db, 2);
    await claim(db, worker);
    await db.sql('DELETE FROM afterdelete.worker');
    expect(await reap()).toMatchObject({ moved: 2 });
  });

  it('removes the pauses of a vanished worker with it', async () => {
    const worker = await addWorker(db);
    await db.sql(
      "INSERT INTO afterdelete.worker_pause (worker, store, paused_by, reason) VALUES ($1, $2, 'breaker', 'down')",
      [worker, STORE],
    );
    await expire(db, worker);
    await reap();
    expect(await db.sql('SELECT FROM afterdelete.worker_pause')).toEqual([]);
  });

  it('passes a worker by whose claim is in flight, and takes its rows over the next time', async () => {
    const worker = await addWorker(db);
    await fill(db, 5);
    const claimer = await db.connect();
    await claimer.query('BEGIN');
    expect(await claim(through(claimer), worker)).toHaveLength(5);
    await expire(db, worker);
    expect(await reap()).toEqual({ workers: 0, moved: 0, died: 0 });
    await claimer.query('COMMIT');
    expect(await states(db)).toMatchObject({ pending: 0, running: 5 });
    expect(
      await value(
        db,
        'SELECT count(*)::int FROM afterdelete.running_file_cleanup r JOIN afterdelete.worker w ON w.id = r.worker',
      ),
    ).toBe(5);
    expect(await reap()).toEqual({ workers: 1, moved: 5, died: 0 });
    expect(await claim(db, await addWorker(db))).toHaveLength(5);
  });

  it('in flight keeps its worker from claiming', async () => {
    const worker = await addWorker(db);
    await fill(db, 5);
    await expire(db, worker);
    const [reaper, claimer] = [await db.connect(), await db.connect()];
    await reaper.query('BEGIN; SELECT afterdelete.reap()');
    // Even if the lease were renewed just now, its row is being deleted: the claim waits, and is refused.
    const refused = claim(through(claimer), worker).then(
      () => 'claimed',
      (error: { code: string }) => error.code,
    );
    await reaper.query('COMMIT');
    expect(await refused).toBe('AD001');
    expect(await states(db)).toMatchObject({ pending: 5, running: 0 });
  });

  it('by several at once moves each row once', async () => {
    const worker = await addWorker(db);
    await fill(db, 2_000);
    await claim(db, worker, 2_000);
    await expire(db, worker);
    const results = await Promise.all([reap(), reap(), reap()]);
    expect(results.reduce((sum, r) => sum + r.moved, 0)).toBe(2_000);
    expect(results.reduce((sum, r) => sum + r.workers, 0)).toBe(1);
    expect(await states(db)).toEqual({ pending: 2_000, running: 0, done: 0, dead: 0 });
    expect(await value(db, 'SELECT count(*)::int FROM afterdelete.pending_file_cleanup WHERE lost = 1')).toBe(
      2_000,
    );
  });

  it('beside a settle in flight leaves its rows to it', async () => {
    const worker = await addWorker(db);
    await fill(db, 2);
    const rows = await claim(db, worker);
    await expire(db, worker);
    const settler = await db.connect();
    await settler.query('BEGIN');
    await settleBack(through(settler), rows.slice(0, 1));
    expect(await reap()).toMatchObject({ workers: 1, moved: 1 });
    await settler.query('COMMIT');
    expect(await states(db)).toEqual({ pending: 2, running: 0, done: 0, dead: 0 });
    expect(await db.sql('SELECT lost, attempt FROM afterdelete.pending_file_cleanup ORDER BY id')).toEqual([
      { lost: 0, attempt: 1 },
      { lost: 1, attempt: 0 },
    ]);
  });
});

describe('a row that its workers vanish with', () => {
  const lose = async (take: 'claim' | 'claim_suspect') => {
    const worker = await addWorker(db);
    const rows =
      take === 'claim'
        ? await claim(db, worker)
        : await db.sql('SELECT * FROM afterdelete.claim_suspect($1, $2)', [worker, [STORE]]);
    await expire(db, worker);
    return { taken: rows.length, ...(await reap()) };
  };

  it('runs with others until it was lost 3 times, then alone, and is dead when it was lost 3 times alone', async () => {
    const id = await put(db);
    for (let i = 1; i <= 3; i++) {
      expect(await lose('claim')).toMatchObject({ taken: 1, moved: 1, died: 0 });
      expect(await pendingRow()).toMatchObject({ lost: i, attempt: 0 });
    }
    expect(await lose('claim')).toMatchObject({ taken: 0 });
    for (let i = 4; i <= 5; i++) {
      expect(await lose('claim_suspect')).toMatchObject({ taken: 1, moved: 1, died: 0 });
      expect(await pendingRow()).toMatchObject({ lost: i, attempt: 0 });
    }
    expect(await lose('claim_suspect')).toMatchObject({ taken: 1, moved: 0, died: 1 });
    const dead = only(await db.sql<{ last_error: string }>('SELECT * FROM afterdelete.dead_file_cleanup'));
    expect(dead).toMatchObject({ id, lost: 6, attempt: 0 });
    expect(dead.last_error).toContain('vanished 6 times');
    expect(dead.last_error).toContain(`afterdelete.retry(${id})`);
  });

  it('does not grow its error with every loss', async () => {
    await put(db);
    for (let i = 0; i < 3; i++) await lose('claim');
    for (let i = 0; i < 3; i++) await lose('claim_suspect');
    const message = await value<string>(db, 'SELECT last_error FROM afterdelete.dead_file_cleanup');
    expect(message.match(/vanished/g)).toHaveLength(1);
  });

  it('keeps the error it had before', async () => {
    const worker = await addWorker(db);
    await put(db);
    await settleBack(db, await claim(db, worker), { error: 'busy' });
    for (let i = 0; i < 3; i++) await lose('claim');
    expect((await pendingRow()).last_error).toMatch(/3 times.*busy/);
  });

  it('starts a new life when a person retries it', async () => {
    const id = await put(db);
    for (let i = 0; i < 3; i++) await lose('claim');
    await db.sql('SELECT afterdelete.retry($1)', [id]);
    expect(only(await claim(db, await addWorker(db)))).toMatchObject({ id, lost: 0 });
  });
});

describe('heartbeat()', () => {
  it('renews the lease by the time of the database', async () => {
    const worker = await addWorker(db, { lease: '1 second' });
    expect(await heartbeat(worker)).toEqual({ alive: true, suspects: false });
    expect(
      await value(
        db,
        "SELECT lease_until - clock_timestamp() BETWEEN interval '59 min' AND interval '1 hour' FROM afterdelete.worker",
      ),
    ).toBe(true);
  });

  it('after the worker was reaped says that it is not alive', async () => {
    const worker = await addWorker(db);
    await expire(db, worker);
    await reap();
    expect(await heartbeat(worker)).toEqual({ alive: false, suspects: false });
  });

  it('of a late worker that nobody has reaped renews it', async () => {
    const worker = await addWorker(db);
    await put(db);
    await claim(db, worker);
    await expire(db, worker);
    expect(await heartbeat(worker)).toMatchObject({ alive: true });
    expect(await reap()).toEqual({ workers: 0, moved: 0, died: 0 });
  });

  it('in flight holds the reaper off', async () => {
    const worker = await addWorker(db);
    await put(db);
    await claim(db, worker);
    await expire(db, worker);
    const client = await db.connect();
    await client.query('BEGIN');
    await client.query("SELECT * FROM afterdelete.heartbeat($1, '1 hour')", [worker]);
    expect(await reap()).toMatchObject({ workers: 0, moved: 0 });
    await client.query('COMMIT');
    expect(await reap()).toMatchObject({ workers: 0, moved: 0 });
  });

  it.each([
    ['a due row of its store that was lost 3 times', `'${STORE}/a', 3, now()`, true],
    ['one that was lost twice', `'${STORE}/a', 2, now()`, false],
    ['one that is not due', `'${STORE}/a', 3, now() + interval '1 hour'`, false],
    ['one of another store', "'s3://other/a', 3, now()", false],
  ])('tells of %s: %s, %s', async (_what, values, suspects) => {
    const worker = await addWorker(db);
    await db.sql(`INSERT INTO afterdelete.pending_file_cleanup (target, lost, run_at) VALUES (${values})`);
    expect(await heartbeat(worker)).toEqual({ alive: true, suspects });
  });

  it('tells of no row in a paused store', async () => {
    const worker = await addWorker(db);
    await db.sql(`INSERT INTO afterdelete.pending_file_cleanup (target, lost) VALUES ('${STORE}/a', 3)`);
    await db.sql('SELECT afterdelete.pause($1)', [STORE]);
    expect(await heartbeat(worker)).toEqual({ alive: true, suspects: false });
  });
});

describe('deregister()', () => {
  it('hands back what the worker holds, as if it had not been touched, and removes it', async () => {
    const worker = await addWorker(db);
    await fill(db, 3);
    const rows = await claim(db, worker);
    expect(await value(db, 'SELECT afterdelete.deregister($1)', [worker])).toBe(3);
    expect(await db.sql('SELECT FROM afterdelete.worker')).toEqual([]);
    const back = await db.sql(
      'SELECT id, attempt, lost, put_back, last_error, first_due_at FROM afterdelete.pending_file_cleanup ORDER BY id',
    );
    expect(back).toEqual(
      rows.map(({ id, first_due_at }) => ({
        id,
        attempt: 0,
        lost: 0,
        put_back: null,
        last_error: null,
        first_due_at,
      })),
    );
  });

  it('leaves the rows of others', async () => {
    const [one, two] = [await addWorker(db), await addWorker(db)];
    await fill(db, 4);
    await claim(db, one, 2);
    await claim(db, two, 2);
    expect(await value(db, 'SELECT afterdelete.deregister($1)', [one])).toBe(2);
    expect(await states(db)).toMatchObject({ pending: 2, running: 2 });
  });

  it('waits for a claim of its own that is in flight, and hands that back too', async () => {
    const worker = await addWorker(db);
    await fill(db, 4);
    const [claimer, leaver] = [await db.connect(), await db.connect()];
    await claimer.query('BEGIN');
    await claim(through(claimer), worker);
    const left = leaver.query<{ n: number }>('SELECT afterdelete.deregister($1) AS n', [worker]);
    await waitsForLock(db, leaver);
    await claimer.query('COMMIT');
    expect((await left).rows).toEqual([{ n: 4 }]);
    expect(await states(db)).toMatchObject({ pending: 4, running: 0 });
  });

  it('of a worker that is gone is nothing', async () => {
    expect(await value(db, 'SELECT afterdelete.deregister(9000000000)')).toBe(0);
  });
});
