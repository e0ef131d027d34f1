/** What the fuse counts in the database: spend, give back, resume. */
import { describe, expect, it } from 'vitest';
import { type Limit, Spending } from '../../src/outbox/spending.ts';
import { until } from '../support/reconciler.ts';
import { fileDatabase, only, openOutbox, STORE, value } from './rows.ts';

const db = fileDatabase();

const [A, B] = [`${STORE}/a/`, `${STORE}/b/`];
const HOUR = 3_600_000;
const PAUSES = 'SELECT store, paused_by, reason FROM afterdelete.store_pause';

/** Spends for root A, unless told otherwise; what was granted. */
function setUp() {
  const spending = new Spending(openOutbox(db.url).kysely);
  const spend = async (count: number, limit: Partial<Limit> = {}, root = A) => {
    const spent = await spending.spend(STORE, new Map([[root, count]]), {
      cleanups: 10,
      window: HOUR,
      ...limit,
    });
    return { ...spent, granted: spent.granted.get(root) };
  };
  const giveBack = async (count: number, moment: string, root = A) =>
    await spending.giveBack(STORE, new Map([[root, count]]), moment);
  return { spending, spend, giveBack };
}

/** What counts, by length of the window. */
const counts = async () =>
  await db.sql(
    'SELECT span::text, sum(cleanups)::int AS n FROM afterdelete.fuse_count GROUP BY 1 ORDER BY 1',
  );

/** Lets so much time pass for the counts. By a long way round, or one bucket would stand where another still does. */
async function age(by: string): Promise<void> {
  for (const back of ['-400000 days', `400000 days ${by}`])
    await db.sql(
      'UPDATE afterdelete.fuse_count SET ends_at = ends_at - $1::interval, since = since - $1::interval',
      [back],
    );
}

describe('spend', () => {
  it('lets as many go as there may, then pauses the store and says what to do', async () => {
    const { spend } = setUp();
    expect(await spend(7)).toMatchObject({ granted: 7, pause: undefined });
    expect(await spend(3)).toMatchObject({ granted: 3, pause: undefined });
    const reason = `more than 10 cleanups of ${A} within 01:00:00. Cancel what should stay, then afterdelete.resume('${STORE}'): a new window begins, and as many more go; to let more go at once, raise AFTERDELETE_FUSE first`;
    expect(await spend(1)).toMatchObject({ granted: 0, pause: { store: STORE, by: 'fuse', reason } });
    expect(await db.sql(PAUSES)).toEqual([{ store: STORE, paused_by: 'fuse', reason }]);
  });

  it('lets the first of a batch go, and lets none go while the store is paused', async () => {
    const { spend } = setUp();
    expect(await spend(25)).toMatchObject({ granted: 10, pause: { by: 'fuse' } });
    await age('25 hours');
    expect(await spend(1)).toMatchObject({ granted: 0, pause: { by: 'fuse' } });
  });

  it('counts each root of a store by itself', async () => {
    const { spending } = setUp();
    const limit = { cleanups: 10, window: HOUR };
    const asked = (a: number, b: number) =>
      new Map([
        [A, a],
        [B, b],
      ]);
    expect((await spending.spend(STORE, asked(10, 9), limit)).granted).toEqual(asked(10, 9));
    const { granted, pause } = await spending.spend(STORE, asked(0, 2), limit);
    expect(granted).toEqual(asked(0, 1));
    expect(pause?.reason).toContain(B);
  });

  it('never lets more go than that, whoever asks at the same time', async () => {
    const askers = Array.from({ length: 5 }, setUp);
    const spent = await Promise.all(
      Array.from({ length: 50 }, (_, i) => askers[i % askers.length]?.spend(3, { cleanups: 100 })),
    );
    expect(spent.reduce((sum, one) => sum + (one?.granted ?? 0), 0)).toBe(100);
    expect(await db.sql(PAUSES)).toHaveLength(1);
  });

  it("leaves an operator's pause as it is, and counts nothing while it lasts", async () => {
    const { spend } = setUp();
    await db.sql("SELECT afterdelete.pause($1, 'moving disks')", [STORE]);
    const pause = { store: STORE, by: 'operator', reason: 'moving disks' };
    expect(await spend(25)).toMatchObject({ granted: 0, pause });
    expect(await db.sql(PAUSES)).toEqual([{ store: STORE, paused_by: 'operator', reason: 'moving disks' }]);
    expect(await counts()).toEqual([]);
  });

  it("leaves an operator's pause as it is that is committed while it counts", async () => {
    const { spend } = setUp();
    const client = await db.connect();
    await client.query('BEGIN');
    await client.query("SELECT afterdelete.pause($1, 'moving disks')", [STORE]);
    const spent = spend(25);
    await waitsForOther();
    await client.query('COMMIT');
    expect(await spent).toMatchObject({ granted: 10, pause: { by: 'operator', reason: 'moving disks' } });
  });

  it('tells all daemons when it pauses the store, and only then', async () => {
    const { spend } = setUp();
    const client = await db.connect();
    const heard: (string | undefined)[] = [];
    client.on('notification', message => heard.push(message.payload));
    await client.query('LISTEN afterdelete');
    for (const count of [10, 1, 1]) await spend(count);
    // Heard after what was notified before.
    await db.sql("SELECT pg_notify('afterdelete', 'end')");
    await until(() => heard.includes('end'), 'the last notification');
    expect(heard).toEqual(['pauses', 'end']);
  });
});

describe('the window', () => {
  it('forgets what is older than it, at the latest a sixtieth of it later, and never sooner', async () => {
    const { spend } = setUp();
    await spend(10);
    // Spent up to a minute before.
    await db.sql(
      "UPDATE afterdelete.fuse_count SET ends_at = clock_timestamp() - interval '59 minutes 30 seconds'",
    );
    await spend(0);
    expect(await counts()).toEqual([{ span: '01:00:00', n: 10 }]);
    await age('1 minute');
    expect(await spend(10)).toMatchObject({ granted: 10, pause: undefined });
    expect(await counts()).toEqual([{ span: '01:00:00', n: 10 }]);
  });

  it('ends with its last bucket, however many there are', async () => {
    const { spend } = setUp();
    for (let i = 0; i < 100; i++) {
      await spend(1, { cleanups: 1_000 });
      await age('1 minute');
    }
    // Sixty that are full, and the one that has begun or is about to end.
    const [{ n }] = (await counts()) as [{ n: number }];
    expect(n).toBeGreaterThanOrEqual(60);
    expect(n).toBeLessThanOrEqual(61);
    expect(await value<number>(db, 'SELECT count(*)::int FROM afterdelete.fuse_count')).toBe(n);
  });

  it.each([1_000, 1_500, 365 * 24 * HOUR])('may be %d ms long', async window => {
    const { spend } = setUp();
    expect(await spend(10, { window })).toMatchObject({ granted: 10 });
    expect(
      only(
        await db.sql(
          'SELECT ends_at > since AND ends_at - since <= span / 60 AS ok, extract(epoch FROM span)::float8 * 1000 AS ms FROM afterdelete.fuse_count',
        ),
      ),
    ).toEqual({ ok: true, ms: window });
  });

  it('may be another for each daemon: all count, and each judges by its own numbers', async () => {
    const { spend } = setUp();
    const short = { cleanups: 10, window: HOUR };
    const long = { cleanups: 15, window: 24 * HOUR };
    expect(await spend(10, short)).toMatchObject({ granted: 10 });
    // It comes later, and finds what has gone already.
    expect(await spend(1, long)).toMatchObject({ granted: 1 });
    await age('2 hours');
    expect(await spend(4, short)).toMatchObject({ granted: 4, pause: undefined });
    expect(await spend(1, long)).toMatchObject({ granted: 0, pause: { by: 'fuse' } });
    expect(await counts()).toEqual([
      { span: '01:00:00', n: 4 },
      { span: '24:00:00', n: 15 },
    ]);
    expect(only(await db.sql<{ reason: string }>(PAUSES)).reason).toContain(
      `more than 15 cleanups of ${A} within 1 day`,
    );
  });
});

describe('give back', () => {
  it('lets others go instead', async () => {
    const { spend, giveBack } = setUp();
    const { moment } = await spend(10);
    await giveBack(4, moment);
    expect(await spend(4)).toMatchObject({ granted: 4, pause: undefined });
    expect(await spend(1)).toMatchObject({ granted: 0 });
  });

  it('counts where it was spent, by every length of the window', async () => {
    const { spend, giveBack } = setUp();
    await spend(1, { window: 24 * HOUR });
    const { moment } = await spend(5);
    await giveBack(5, moment);
    expect(await counts()).toEqual([
      { span: '01:00:00', n: 1 },
      { span: '24:00:00', n: 1 },
    ]);
  });

  it('changes nothing in a window that began later', async () => {
    const { spend, giveBack } = setUp();
    const { moment } = await spend(10);
    await db.sql('SELECT afterdelete.resume($1)', [STORE]);
    await spend(10);
    await giveBack(10, moment);
    expect(await spend(1)).toMatchObject({ granted: 0, pause: { by: 'fuse' } });
  });

  it('changes nothing once the bucket has left the window', async () => {
    const { spend, giveBack } = setUp();
    const { moment } = await spend(10);
    await age('2 hours');
    await spend(10);
    await giveBack(10, moment);
    expect(await counts()).toEqual([{ span: '01:00:00', n: 10 }]);
  });
});

describe('resume', () => {
  it('starts a new window for the roots of the store, and of no other', async () => {
    const { spending, spend } = setUp();
    const other = 'fake://store-2';
    const limit = { cleanups: 10, window: HOUR };
    await spending.spend(other, new Map([[`${other}/a/`, 10]]), limit);
    await spend(10);
    await spend(11, {}, B);
    await db.sql('SELECT afterdelete.resume($1)', [STORE]);
    expect(await db.sql(PAUSES)).toEqual([]);
    for (const root of [A, B]) expect(await spend(10, {}, root)).toMatchObject({ granted: 10 });
    const { granted } = await spending.spend(other, new Map([[`${other}/a/`, 1]]), limit);
    expect(granted.get(`${other}/a/`)).toBe(0);
  });

  it('takes file:// and the disks of other machines for different stores', async () => {
    const { spending } = setUp();
    const limit = { cleanups: 1, window: HOUR };
    const roots = { 'file://': 'file:///data/', 'file://gpu-01': 'file://gpu-01/data/' };
    for (const [store, root] of Object.entries(roots))
      await spending.spend(store, new Map([[root, 1]]), limit);
    await db.sql("SELECT afterdelete.resume('file://')");
    expect(await db.sql('SELECT root FROM afterdelete.fuse_count')).toEqual([
      { root: 'file://gpu-01/data/' },
    ]);
  });

  it('waits for who counts just now, and the other way round', async () => {
    const { spend } = setUp();
    await spend(10);
    const client = await db.connect();
    await client.query('BEGIN');
    await client.query('SELECT afterdelete.resume($1)', [STORE]);
    const spent = spend(10);
    await waitsForOther();
    await client.query('COMMIT');
    expect(await spent).toMatchObject({ granted: 10, pause: undefined });
  });
});

/** Resolves when a session waits for a lock that another one holds. */
async function waitsForOther(): Promise<void> {
  const waiting =
    'SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0';
  await until(async () => (await value<number>(db, waiting)) > 0, 'a session that waits');
}
