/** The audit trail's partitions: made ahead, dropped when nobody keeps them any more. */
import { beforeEach, describe, expect, it } from 'vitest';
import { addWorker, claim, expire, fileDatabase, fill, only, settleDone, value } from './rows.ts';

const db = fileDatabase();
const maintain = async () =>
  only(await db.sql<{ made: number; dropped: number }>('SELECT * FROM afterdelete.maintain_history()'));
const partitions = async () =>
  (
    await db.sql<{ name: string }>(
      "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'afterdelete.done_file_cleanup'::regclass ORDER BY 1",
    )
  ).map(row => row.name.slice('afterdelete.done_file_cleanup_'.length));
/** The name of the partition of so many days from today (UTC). */
const day = (offset: number) =>
  value<string>(db, "SELECT to_char((clock_timestamp() AT TIME ZONE 'UTC')::date + $1::int, 'YYYYMMDD')", [
    offset,
  ]);
const days = (...offsets: number[]) => Promise.all(offsets.map(day));
const addPartition = async (offset: number) => {
  const name = await day(offset);
  await db.sql(
    `CREATE TABLE afterdelete.done_file_cleanup_${name} PARTITION OF afterdelete.done_file_cleanup
       FOR VALUES FROM ('${name} 00:00:00+00') TO ('${await day(offset + 1)} 00:00:00+00')`,
  );
};
const addDone = (id: number, ago: string) =>
  db.sql(
    `INSERT INTO afterdelete.done_file_cleanup (id, target, outcome, attempt, created_at, done_at)
     VALUES ($1, 's3://b/k', 'deleted', 1, now(), now() - $2::interval)`,
    [id, ago],
  );
const standing = async (id: number) =>
  (
    await db.sql<{ name: string }>(
      'SELECT tableoid::regclass::text AS name FROM afterdelete.done_file_cleanup WHERE id = $1',
      [id],
    )
  ).map(row => row.name.slice('afterdelete.done_file_cleanup_'.length));
const dropAll = async () => {
  for (const name of await partitions())
    if (name !== 'default') await db.sql(`DROP TABLE afterdelete.done_file_cleanup_${name}`);
};

beforeEach(dropAll);

describe('maintain_history()', () => {
  it('makes partitions for today and the next three days, and nothing the second time', async () => {
    expect(await maintain()).toEqual({ made: 4, dropped: 0 });
    expect(await partitions()).toEqual([...(await days(0, 1, 2, 3)), 'default'].sort());
    expect(await maintain()).toEqual({ made: 0, dropped: 0 });
  });

  it('makes partitions of days in UTC, whatever the time zone of the session', async () => {
    const client = await db.connect();
    await client.query("SET timezone = 'Pacific/Kiritimati'; SELECT afterdelete.maintain_history()");
    expect(await partitions()).toEqual([...(await days(0, 1, 2, 3)), 'default'].sort());
    const bound = await value<string>(
      db,
      `SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = 'afterdelete.done_file_cleanup_${await day(0)}'::regclass`,
    );
    expect(bound).toContain('00:00:00+00');
  });

  it('gives each partition the index, the rule and the comments of the table', async () => {
    await maintain();
    const table = `afterdelete.done_file_cleanup_${await day(0)}`;
    expect(await value(db, 'SELECT count(*)::int FROM pg_index WHERE indrelid = $1::regclass', [table])).toBe(
      1,
    );
    expect(
      await value(
        db,
        "SELECT count(*)::int FROM pg_constraint WHERE conrelid = $1::regclass AND conname = 'outcome_is_known'",
        [table],
      ),
    ).toBe(1);
    expect(await value(db, "SELECT obj_description($1::regclass, 'pg_class')", [table])).toMatch(/UTC/);
  });

  it('moves rows out of the default partition when their day is made', async () => {
    await fill(db, 3);
    const rows = await claim(db, await addWorker(db));
    expect(await settleDone(db, rows)).toHaveLength(3);
    const [id] = rows.map(row => Number(row.id)) as [number];
    expect(await standing(id)).toEqual(['default']);
    expect(await maintain()).toEqual({ made: 4, dropped: 0 });
    expect(await standing(id)).toEqual([await day(0)]);
    expect(await value(db, 'SELECT count(*)::int FROM afterdelete.done_file_cleanup')).toBe(3);
  });

  it('drops what is older than the longest retention of a live worker, and nothing younger', async () => {
    await addWorker(db, { history: '3 days' });
    await addWorker(db, { history: '1 day' });
    for (const offset of [-6, -5, -4, -3, -2, -1]) await addPartition(offset);
    await maintain();
    // Three days ago is a day of which some hours are still to be kept.
    expect(await partitions()).toEqual([...(await days(-3, -2, -1, 0, 1, 2, 3)), 'default'].sort());
  });

  it('drops old rows of the default partition too', async () => {
    await addWorker(db, { history: '3 days' });
    await addDone(1, '10 days');
    await addDone(2, '2 days');
    await maintain();
    expect(await standing(1)).toEqual([]);
    expect(await standing(2)).toEqual(['default']);
  });

  it.each(['no worker', 'no live worker'])('drops nothing with %s', async kind => {
    if (kind === 'no live worker') await expire(db, await addWorker(db, { history: '0' }));
    for (const offset of [-400, -1]) await addPartition(offset);
    await addDone(1, '1000 days');
    expect(await maintain()).toEqual({ made: 4, dropped: 0 });
    expect(await standing(1)).toEqual(['default']);
    expect(await partitions()).toContain(await day(-400));
  });

  it('with a retention of nothing keeps today only', async () => {
    await addWorker(db, { history: '0' });
    await addPartition(-1);
    await maintain();
    expect(await partitions()).toEqual([...(await days(0, 1, 2, 3)), 'default'].sort());
  });

  it('leaves tables that are no day of its own', async () => {
    await addWorker(db, { history: '0' });
    await db.sql(
      "CREATE TABLE afterdelete.done_file_cleanup_old PARTITION OF afterdelete.done_file_cleanup FOR VALUES FROM ('2001-01-01+00') TO ('2001-01-02+00')",
    );
    await maintain();
    expect(await partitions()).toContain('old');
    await db.sql('DROP TABLE afterdelete.done_file_cleanup_old');
  });

  it('called by six at once makes each partition once', async () => {
    const results = await Promise.all(
      Array.from({ length: 6 }, async () =>
        only((await (await db.connect()).query('SELECT * FROM afterdelete.maintain_history()')).rows),
      ),
    );
    expect(results.reduce((sum, r) => sum + r.made, 0)).toBe(4);
    expect(await partitions()).toHaveLength(5);
  });

  it('beside settles loses none of their rows', async () => {
    const worker = await addWorker(db);
    await fill(db, 2_000);
    const settle = async () => {
      for (;;) {
        const rows = await claim(db, worker, 50);
        if (rows.length === 0) return;
        await settleDone(db, rows);
      }
    };
    await Promise.all([settle(), settle(), maintain()]);
    expect(await value(db, 'SELECT count(DISTINCT id)::int FROM afterdelete.done_file_cleanup')).toBe(2_000);
    await maintain();
    expect(await value(db, 'SELECT count(*)::int FROM afterdelete.done_file_cleanup_default')).toBe(0);
  });
});
