/** What people and Prometheus look at: every number, and every reason. */
import { describe, expect, it } from 'vitest';
import {
  addDead,
  addWorker,
  claim,
  expire,
  fileDatabase,
  fill,
  only,
  put,
  STORE,
  settleBack,
  value,
} from './rows.ts';

const db = fileDatabase();

interface Backlog {
  store: string;
  pending: string;
  due: string;
  delayed: string;
  retrying: string;
  running: string;
  dead: string;
  oldest_due_at: Date | null;
  oldest_due_seconds: number | null;
  paused: boolean;
  served: boolean;
  estimated: boolean;
}
interface Stuck {
  id: string;
  state: string;
  reason: string;
  target: string;
  attempt: number;
  age: object;
  next_attempt_at: Date | null;
  worker: string | null;
  last_error: string;
}
const backlog = async (store = STORE) =>
  only(await db.sql<Backlog>('SELECT * FROM afterdelete.backlog WHERE store = $1', [store]));
const stuck = () => db.sql<Stuck>('SELECT * FROM afterdelete.stuck ORDER BY id');
const columns = async (view: string) =>
  (
    await db.sql<{ name: string }>(
      "SELECT attname AS name FROM pg_attribute WHERE attrelid = ('afterdelete.' || $1)::regclass AND attnum > 0 ORDER BY attnum",
      [view],
    )
  ).map(row => row.name);
/** Makes rows of a table older. */
const age = (table: string, by: string) =>
  db.sql(
    `UPDATE afterdelete.${table}_file_cleanup SET created_at = created_at - $1::interval, first_due_at = first_due_at - $1::interval${table === 'pending' ? ', run_at = run_at - $1::interval' : ''}`,
    [by],
  );
const pauseWorker = (worker: string, store = STORE, by = 'breaker') =>
  db.sql(
    "INSERT INTO afterdelete.worker_pause (worker, store, paused_by, reason) VALUES ($1, $2, $3, 'connection refused')",
    [worker, store, by],
  );

describe('backlog', () => {
  it('has the columns of the contract, in order', async () => {
    expect(await columns('backlog')).toEqual(
      'store pending due delayed retrying running dead oldest_due_at oldest_due_seconds paused served estimated'.split(
        ' ',
      ),
    );
  });

  it('counts each row once, under what it is', async () => {
    const worker = await addWorker(db);
    await addDead(db, worker);
    await fill(db, 7);
    const rows = await claim(db, worker);
    await settleBack(db, rows.slice(0, 1), { reason: 'retry', delay: 60_000 });
    await settleBack(db, rows.slice(1, 2), { reason: 'blocked', delay: 60_000 });
    await settleBack(db, rows.slice(2, 3), { reason: 'yielded', delay: 60_000 });
    await settleBack(db, rows.slice(3, 4), { reason: 'retry' });
    await settleBack(db, rows.slice(4, 5), { reason: 'handed_back' });
    await put(db, `${STORE}/new`);
    await put(db, `${STORE}/later`, '1 hour');
    expect(await backlog()).toMatchObject({
      pending: '7',
      due: '3',
      delayed: '1',
      retrying: '3',
      running: '2',
      dead: '1',
      estimated: false,
    });
  });

  it('counts exactly up to 100,000 rows, and says of more that it estimates', async () => {
    const insert = (n: number, columns = '', values = '') =>
      db.sql(
        `INSERT INTO afterdelete.pending_file_cleanup (target${columns}) SELECT '${STORE}/' || i${values} FROM generate_series(1, $1) i`,
        [n],
      );
    await insert(100_000);
    expect(await backlog()).toMatchObject({ due: '100000', pending: '100000', estimated: false });
    await insert(50_000);
    await insert(110_000, ', run_at, attempt', ", now() + interval '1 day', i % 2");
    await db.sql('ANALYZE afterdelete.pending_file_cleanup');
    const row = await backlog();
    expect(row.estimated).toBe(true);
    for (const [column, truth] of [
      ['due', 150_000],
      ['delayed', 55_000],
      ['retrying', 55_000],
      ['pending', 260_000],
    ] as const) {
      expect(Number(row[column]) / truth, column).toBeGreaterThan(0.8);
      expect(Number(row[column]) / truth, column).toBeLessThan(1.2);
    }
  });

  it('knows stores that have rows in one state only, and those that have none but a pause or a worker', async () => {
    const worker = await addWorker(db, { stores: ['s3://running', 's3://idle', 's3://dead'] });
    await put(db, 's3://pending/a');
    await put(db, 's3://running/a');
    await claim(db, worker, 1, ['s3://running']);
    await db.sql(
      "INSERT INTO afterdelete.dead_file_cleanup (id, target, attempt, last_error, created_at, died_at) VALUES (1, 's3://dead/a', 1, 'e', now(), now())",
    );
    await db.sql("SELECT afterdelete.pause('s3://paused')");
    const rows = await db.sql<Backlog>('SELECT * FROM afterdelete.backlog ORDER BY store');
    const none = {
      pending: '0',
      due: '0',
      running: '0',
      dead: '0',
      oldest_due_at: null,
      oldest_due_seconds: null,
    };
    expect(rows).toMatchObject([
      { store: 's3://dead', ...none, dead: '1', served: true, paused: false },
      { store: 's3://idle', ...none, served: true, paused: false },
      { store: 's3://paused', ...none, served: false, paused: true },
      { store: 's3://pending', pending: '1', due: '1', served: false, paused: false },
      { store: 's3://running', pending: '0', running: '1', served: true, paused: false },
    ]);
  });

  it('is empty when there is nothing', async () => {
    expect(await db.sql('SELECT * FROM afterdelete.backlog')).toEqual([]);
  });

  it('counts the oldest due from when a row was first due, retrying and running ones included', async () => {
    const worker = await addWorker(db);
    await put(db, `${STORE}/later`, '1 hour');
    expect(await backlog()).toMatchObject({ oldest_due_at: null, oldest_due_seconds: null });
    await put(db, `${STORE}/new`);
    expect((await backlog()).oldest_due_seconds).toBeLessThan(60);
    const [row] = await claim(db, worker);
    await age('running', '2 hours');
    const running = await backlog();
    expect(running.oldest_due_seconds).toBeGreaterThanOrEqual(7_200);
    await settleBack(db, row ? [row] : [], { reason: 'retry', delay: 3_600_000 });
    expect(await backlog()).toMatchObject({ due: '0', oldest_due_at: running.oldest_due_at });
  });

  it('is paused by an operator, and until resumed', async () => {
    await addWorker(db);
    expect(await backlog()).toMatchObject({ paused: false, served: true });
    await db.sql('SELECT afterdelete.pause($1)', [STORE]);
    expect(await backlog()).toMatchObject({ paused: true, served: true });
    await db.sql('SELECT afterdelete.resume($1)', [STORE]);
    expect(await backlog()).toMatchObject({ paused: false });
  });

  it('is paused when every live worker that serves it has paused it, and not before', async () => {
    const [one, two] = [await addWorker(db), await addWorker(db)];
    await addWorker(db, { stores: ['s3://other'] });
    await pauseWorker(one);
    expect(await backlog()).toMatchObject({ paused: false });
    await pauseWorker(two, STORE, 'root');
    expect(await backlog()).toMatchObject({ paused: true });
    await db.sql('DELETE FROM afterdelete.worker_pause WHERE worker = $1', [two]);
    await expire(db, two);
    expect(await backlog()).toMatchObject({ paused: true });
  });

  it('is served while a live worker serves it', async () => {
    const worker = await addWorker(db);
    expect(await backlog()).toMatchObject({ served: true });
    await expire(db, worker);
    expect(await backlog()).toMatchObject({ served: false, paused: false });
  });
});

describe('stuck', () => {
  it('has the columns of the contract, in order', async () => {
    expect(await columns('stuck')).toEqual(
      'id state reason store target attempt age next_attempt_at worker last_error source actor'.split(' '),
    );
  });

  it('shows no row that is well: due, delayed, running, retrying for the second time', async () => {
    const worker = await addWorker(db);
    await fill(db, 4);
    const [row] = await claim(db, worker, 2);
    await put(db, `${STORE}/later`, '1 hour');
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target, attempt, put_back, first_due_at, run_at) VALUES ('fake://store/x', 2, 'retry', now(), now() + interval '1 minute')",
    );
    await settleBack(db, row ? [row] : []);
    await put(db, 's3://unserved/later', '1 hour');
    expect(await stuck()).toEqual([]);
  });

  it('dead: with its error', async () => {
    const id = await addDead(db, await addWorker(db), 'access denied');
    expect(await stuck()).toMatchObject([
      {
        id,
        state: 'dead',
        reason: 'dead',
        attempt: 1,
        worker: 'w',
        last_error: 'access denied',
        next_attempt_at: null,
      },
    ]);
  });

  it('retrying: from the third attempt', async () => {
    const worker = await addWorker(db);
    const id = await put(db);
    for (let attempt = 1; attempt <= 3; attempt++) {
      expect(await stuck()).toEqual([]);
      await settleBack(db, await claim(db, worker), {
        error: `try ${attempt}`,
        delay: attempt === 3 ? 60_000 : 0,
      });
    }
    const due = await value(db, 'SELECT due_at FROM afterdelete.pending_file_cleanup');
    expect(await stuck()).toMatchObject([
      { id, state: 'pending', reason: 'retrying', attempt: 3, last_error: 'try 3', next_attempt_at: due },
    ]);
  });

  it('retrying: while the fourth attempt runs', async () => {
    const worker = await addWorker(db, { name: 'gpu-01/7' });
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target, attempt, last_error) VALUES ('fake://store/a', 3, 'busy')",
    );
    await claim(db, worker);
    expect(await stuck()).toMatchObject([
      { state: 'running', reason: 'retrying', last_error: 'busy', worker: 'gpu-01/7', next_attempt_at: null },
    ]);
  });

  it('blocked: with what blocks it', async () => {
    const worker = await addWorker(db);
    const id = await put(db);
    await settleBack(db, await claim(db, worker), {
      reason: 'blocked',
      delay: 60_000,
      error: 'training 7 holds something below it',
    });
    expect(await stuck()).toMatchObject([
      {
        id,
        state: 'pending',
        reason: 'blocked',
        attempt: 0,
        last_error: 'training 7 holds something below it',
      },
    ]);
  });

  it.each([
    ['pending', "interval '14 min 50 s'", []],
    ['pending', "interval '15 min'", ['overdue']],
    ['running', "interval '14 min 50 s'", []],
    ['running', "interval '15 min'", ['overdue']],
  ])('overdue: a %s row first due %s ago: %j', async (state, by, reasons) => {
    const worker = await addWorker(db);
    await put(db);
    if (state === 'running') await claim(db, worker);
    await age(state, by.slice("interval '".length, -1));
    const rows = await stuck();
    expect(rows.map(row => row.reason)).toEqual(reasons);
    for (const row of rows) expect(row.last_error).toMatch(/15 minutes/);
  });

  it('overdue: a delayed row is not, however old', async () => {
    await addWorker(db);
    await put(db, `${STORE}/a`, '1 hour');
    await db.sql("UPDATE afterdelete.pending_file_cleanup SET created_at = now() - interval '1 year'");
    expect(await stuck()).toEqual([]);
  });

  it('unserved: a due row that no live worker serves; a delayed one not yet', async () => {
    const worker = await addWorker(db);
    const id = await put(db);
    expect(await stuck()).toEqual([]);
    await expire(db, worker);
    await put(db, `${STORE}/later`, '1 hour');
    const row = only(await stuck());
    expect(row).toMatchObject({ id, state: 'pending', reason: 'unserved' });
    expect(row.last_error).toContain(STORE);
  });

  it('paused: by an operator, with the reason and how to end it', async () => {
    await addWorker(db);
    await put(db);
    await db.sql("SELECT afterdelete.pause($1, 'moving disks')", [STORE]);
    const row = only(await stuck());
    expect(row).toMatchObject({ state: 'pending', reason: 'paused' });
    expect(row.last_error).toMatch(/operator.*moving disks.*afterdelete\.resume\('fake:\/\/store'\)/);
  });

  it('paused: by a fuse, in its own words', async () => {
    await addWorker(db);
    await put(db);
    const reason = 'more than 10 cleanups';
    await db.sql("INSERT INTO afterdelete.store_pause (store, paused_by, reason) VALUES ($1, 'fuse', $2)", [
      STORE,
      reason,
    ]);
    const row = only(await stuck());
    expect(row.reason).toBe('paused');
    expect(row.last_error).toMatch(/^paused by fuse since [-:+\d ]+: more than 10 cleanups$/);
  });

  it('paused: by all workers that serve it, with their reason', async () => {
    const [one, two] = [await addWorker(db, { name: 'one' }), await addWorker(db, { name: 'two' })];
    await put(db);
    await pauseWorker(one);
    expect(await stuck()).toEqual([]);
    await pauseWorker(two);
    const row = only(await stuck());
    expect(row).toMatchObject({ reason: 'paused' });
    expect(row.last_error).toMatch(/breaker.*connection refused/);
  });

  it('lost: a row that waits to run alone', async () => {
    const worker = await addWorker(db);
    await addWorker(db);
    await db.sql("INSERT INTO afterdelete.pending_file_cleanup (target, lost) VALUES ('fake://store/a', 2)");
    await claim(db, worker);
    await expire(db, worker);
    await db.sql('SELECT afterdelete.reap()');
    const row = only(await stuck());
    expect(row).toMatchObject({ state: 'pending', reason: 'lost' });
    expect(row.last_error).toMatch(/vanished.*3 times/);
  });

  it('lost: a running row whose worker has missed its heartbeats', async () => {
    const worker = await addWorker(db, { name: 'gpu-01/7' });
    await put(db);
    await claim(db, worker);
    await expire(db, worker);
    const row = only(await stuck());
    expect(row).toMatchObject({ state: 'running', reason: 'lost', worker: 'gpu-01/7' });
    expect(row.last_error).toMatch(/missed its heartbeats/);
  });

  it('lost: a row that runs alone under a live worker is not said to have lost that one', async () => {
    const worker = await addWorker(db);
    await db.sql("INSERT INTO afterdelete.pending_file_cleanup (target, lost) VALUES ('fake://store/a', 4)");
    await db.sql('SELECT afterdelete.claim_suspect($1, $2)', [worker, [STORE]]);
    const row = only(await stuck());
    expect(row).toMatchObject({ state: 'running', reason: 'lost' });
    expect(row.last_error).toMatch(/alone.*4/);
    expect(row.last_error).not.toMatch(/heartbeats/);
  });

  it('always says why, whatever is missing', async () => {
    const worker = await addWorker(db);
    await db.sql(
      `INSERT INTO afterdelete.pending_file_cleanup (target, attempt, lost, put_back, run_at)
       SELECT 'fake://store/' || a || l || coalesce(b, ''), a, l, b, now() - o * interval '1 hour'
         FROM unnest(ARRAY[0, 3]) a, unnest(ARRAY[0, 3]) l, unnest(ARRAY[NULL, 'retry', 'blocked', 'yielded', 'lost']) b, unnest(ARRAY[0, 1]) o`,
    );
    const check = async () => {
      for (const row of await stuck()) {
        expect(row.last_error.length).toBeGreaterThan(0);
        expect(row.age).not.toBeNull();
      }
    };
    await check();
    await claim(db, worker, 10);
    await check();
    await db.sql('SELECT afterdelete.pause($1)', [STORE]);
    await check();
    await expire(db, worker);
    await check();
  });
});
