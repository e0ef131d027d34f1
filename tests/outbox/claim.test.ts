/** Pending to running: who gets which rows. */
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
  states,
  tuplesRead,
  value,
} from './rows.ts';

const db = fileDatabase();
const OTHER = 's3://other';
/** The targets that claim() answers with, a row each; FROM follows. */
const TARGETS = "SELECT unnest(string_to_array(targets, E'\\n')) AS target";

/** The targets that a worker gets beside others with such roots. */
async function claimedBeside(worker: string, others: readonly string[]): Promise<string[]> {
  const rows = await db.sql<{ target: string }>(`${TARGETS} FROM afterdelete.claim($1, $2, $3, $4)`, [
    worker,
    [STORE],
    [10],
    others,
  ]);
  return rows.map(row => row.target).sort();
}

describe('claim()', () => {
  it('takes as many rows of each store as it has room for, those due longest first', async () => {
    const worker = await addWorker(db);
    await db.sql(
      `INSERT INTO afterdelete.pending_file_cleanup (target, created_at, run_at)
       SELECT store || '/' || i, now() - i * interval '1 minute', now() - i * interval '1 minute'
         FROM unnest(ARRAY['fake://store', 's3://other', 's3://third']) AS store, generate_series(1, 20) i`,
    );
    const rows = await db.sql<{ target: string }>(`${TARGETS} FROM afterdelete.claim($1, $2, $3)`, [
      worker,
      [STORE, OTHER, 's3://none'],
      [3, 5, 7],
    ]);
    const of = (store: string) =>
      rows
        .filter(row => row.target.startsWith(`${store}/`))
        .map(row => row.target)
        .sort();
    expect(of(STORE)).toEqual(['fake://store/18', 'fake://store/19', 'fake://store/20']);
    expect(of(OTHER)).toEqual([
      's3://other/16',
      's3://other/17',
      's3://other/18',
      's3://other/19',
      's3://other/20',
    ]);
    expect(rows).toHaveLength(8);
    expect(await states(db)).toMatchObject({ pending: 52, running: 8 });
  });

  it('of a store with no room takes none', async () => {
    const worker = await addWorker(db);
    await fill(db, 5);
    expect(await claim(db, worker, 0)).toEqual([]);
  });

  it('gives all rows of one claim one number, and no number twice', async () => {
    const worker = await addWorker(db);
    await fill(db, 4);
    const first = await claim(db, worker, 2);
    const second = await claim(db, worker, 2);
    expect(new Set(first.map(row => row.claim)).size).toBe(1);
    expect(first[0]?.claim).not.toBe(second[0]?.claim);
  });

  it('leaves delayed rows until they are due', async () => {
    const worker = await addWorker(db);
    await fill(db, 1, '1 hour');
    await put(db, `${STORE}/due`);
    expect((await claim(db, worker)).map(row => row.target)).toEqual([`${STORE}/due`]);
  });

  it('carries over all that is known of a row', async () => {
    const worker = await addWorker(db, { stores: ['file://'] });
    await db.sql(
      `INSERT INTO afterdelete.pending_file_cleanup (target, prune_parents, source, actor, attempt, lost, last_error, objects_deleted, bytes_freed)
       VALUES ('file:///a/b', 4, 'why', 'alice', 2, 1, 'busy', 3, 30)`,
    );
    const due = await value(db, 'SELECT due_at FROM afterdelete.pending_file_cleanup');
    expect(only(await claim(db, worker, 1, ['file://']))).toMatchObject({
      worker,
      target: 'file:///a/b',
      store: 'file://',
      prune_parents: 4,
      source: 'why',
      actor: 'alice',
      attempt: 2,
      lost: 1,
      last_error: 'busy',
      first_due_at: due,
      objects_deleted: '3',
      bytes_freed: '30',
    });
  });

  it('leaves what lies inside the roots of others', async () => {
    const worker = await addWorker(db, { roots: [`${STORE}/mine/`] });
    for (const path of ['mine/1', 'theirs/1', 'theirs/', 'theirs2/1', 'theirs'])
      await put(db, `${STORE}/${path}`);
    expect(await claimedBeside(worker, [`${STORE}/theirs/`, 's3://other/'])).toEqual([
      `${STORE}/mine/1`,
      `${STORE}/theirs`,
      `${STORE}/theirs2/1`,
    ]);
  });

  it('takes what lies inside its own roots, though those of others contain them', async () => {
    const worker = await addWorker(db, { roots: [`${STORE}/a/mine/`] });
    // The root itself, and what marks it, lie inside it for nobody: they are for those who have the root around it.
    for (const path of ['mine/1', 'mine/', 'mine/.afterdelete-root', 'theirs/1'])
      await put(db, `${STORE}/a/${path}`);
    expect(await claimedBeside(worker, [`${STORE}/a/`])).toEqual([`${STORE}/a/mine/1`]);
  });

  it('rolled back leaves the rows pending', async () => {
    const worker = await addWorker(db);
    await fill(db, 3);
    const client = await db.connect();
    await client.query('BEGIN');
    await client.query('SELECT afterdelete.claim($1, $2, $3)', [worker, [STORE], [3]]);
    await client.query('ROLLBACK');
    expect(await states(db)).toMatchObject({ pending: 3, running: 0 });
    expect(await claim(db, worker)).toHaveLength(3);
  });

  it('passes by what another transaction has in its hands', async () => {
    const worker = await addWorker(db);
    await fill(db, 10);
    const client = await db.connect();
    await client.query('BEGIN');
    await client.query('SELECT afterdelete.claim($1, $2, $3)', [worker, [STORE], [4]]);
    expect(await claim(db, worker)).toHaveLength(6);
    await client.query('COMMIT');
    expect(await states(db)).toMatchObject({ pending: 0, running: 10 });
  });

  it('by two workers at once gives each of 20,000 rows to exactly one', async () => {
    await fill(db, 20_000);
    const workers = [await addWorker(db, { name: 'a' }), await addWorker(db, { name: 'b' })];
    const sessions = await Promise.all(workers.map(async worker => ({ worker, client: await db.connect() })));
    const taken = await Promise.all(
      sessions.map(async ({ worker, client }) => {
        const ids: string[] = [];
        for (;;) {
          const { rows } = await client.query<{ id: string }>(
            'SELECT unnest(ids) AS id FROM afterdelete.claim($1, $2, $3)',
            [worker, [STORE], [173]],
          );
          if (rows.length === 0) return ids;
          ids.push(...rows.map(row => row.id));
        }
      }),
    );
    const all = taken.flat();
    expect(all).toHaveLength(20_000);
    expect(new Set(all).size).toBe(20_000);
    for (const ids of taken) expect(ids.length).toBeGreaterThan(0);
    expect(await states(db)).toEqual({ pending: 0, running: 20_000, done: 0, dead: 0 });
  });

  it.each(['expired', 'unknown'])('by an %s worker raises AD001 and takes nothing', async kind => {
    const worker = await addWorker(db);
    await fill(db, 1);
    if (kind === 'expired') await expire(db, worker);
    await expect(claim(db, kind === 'expired' ? worker : '9000000000')).rejects.toMatchObject({
      code: 'AD001',
    });
    await expect(
      db.sql('SELECT afterdelete.claim_suspect($1, $2)', [
        kind === 'expired' ? worker : '9000000000',
        [STORE],
      ]),
    ).rejects.toMatchObject({ code: 'AD001' });
    expect(await states(db)).toMatchObject({ pending: 1, running: 0 });
  });

  it('reads as many rows as it takes, whatever else waits: delayed, paused, analysed while empty', async () => {
    await db.sql('ANALYZE afterdelete.pending_file_cleanup');
    const worker = await addWorker(db);
    await db.sql(
      `INSERT INTO afterdelete.pending_file_cleanup (target, run_at)
       SELECT 'fake://store/' || i, now() + interval '1 hour' FROM generate_series(1, 5000) i
       UNION ALL SELECT 's3://other/' || i, now() FROM generate_series(1, 5000) i
       UNION ALL SELECT 'fake://store/due' || i, now() FROM generate_series(1, 50) i`,
    );
    await db.sql('SELECT afterdelete.pause($1)', [OTHER]);
    const client = await db.connect();
    const read = await tuplesRead(client, 'pending_file_cleanup', () =>
      client.query('SELECT * FROM afterdelete.claim($1, $2, $3)', [worker, [STORE, OTHER], [1000, 1000]]),
    );
    expect(await states(db)).toMatchObject({ running: 50 });
    expect(read).toBeGreaterThanOrEqual(50);
    expect(read).toBeLessThanOrEqual(200);
  });
});

describe('claim_suspect()', () => {
  it('takes exactly one of the rows that claim() leaves: those lost 3 times', async () => {
    const worker = await addWorker(db);
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target, lost) SELECT 'fake://store/' || i, i FROM generate_series(0, 5) i",
    );
    expect((await claim(db, worker)).map(row => row.lost).sort()).toEqual([0, 1, 2]);
    const lost = [];
    for (;;) {
      const rows = await db.sql<Running>('SELECT * FROM afterdelete.claim_suspect($1, $2)', [
        worker,
        [STORE],
      ]);
      if (rows.length === 0) break;
      lost.push(only(rows).lost);
    }
    expect(lost).toEqual([3, 4, 5]);
  });

  it('leaves other stores, paused stores and rows that are not due', async () => {
    const worker = await addWorker(db);
    await db.sql(
      `INSERT INTO afterdelete.pending_file_cleanup (target, lost, run_at)
       VALUES ('s3://other/a', 3, now()), ('s3://paused/a', 3, now()), ('fake://store/later', 3, now() + interval '1 hour')`,
    );
    await db.sql("SELECT afterdelete.pause('s3://paused')");
    expect(
      await db.sql('SELECT * FROM afterdelete.claim_suspect($1, $2)', [worker, [STORE, 's3://paused']]),
    ).toEqual([]);
  });
});

describe('next_due()', () => {
  const nextDue = (stores: string[]) => value<number | null>(db, 'SELECT afterdelete.next_due($1)', [stores]);

  it('tells when the next row of these stores falls due', async () => {
    expect(await nextDue([STORE])).toBeNull();
    await put(db, `${STORE}/a`, '2 hours');
    await put(db, `${OTHER}/a`, '1 hour');
    await put(db, 's3://third/a', '1 minute');
    const ms = await nextDue([STORE, OTHER]);
    expect(ms).toBeGreaterThan(3_000_000);
    expect(ms).toBeLessThanOrEqual(3_600_000);
  });

  it('leaves out paused stores and rows that wait for ever', async () => {
    await put(db, `${STORE}/a`, '1 hour');
    await db.sql('SELECT afterdelete.pause($1)', [STORE]);
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target, run_at) VALUES ('s3://other/a', 'infinity')",
    );
    expect(await nextDue([STORE, OTHER])).toBeNull();
  });

  it('knows of rows that were put back for later', async () => {
    const worker = await addWorker(db);
    await put(db);
    await settleBack(db, await claim(db, worker), { delay: 60_000 });
    expect(await nextDue([STORE])).toBeGreaterThan(0);
  });
});
