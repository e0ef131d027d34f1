/** The lower bounds of the claim: never above a row that may still appear, and high enough to pass dead rows by. */
import { describe, expect, it } from 'vitest';
import { Floors } from '../../src/reconciler/floors.ts';
import { createDatabase } from '../support/database.ts';
import { fakeHandler } from '../support/fake-handler.ts';
import { countEvents, nextEvent, testReconciler, until } from '../support/reconciler.ts';

function claimOf(floors: Floors, dues: readonly number[], full = true) {
  const start = floors.begin();
  const from = floors.from('s', start);
  floors.claimed('s', dues, start);
  floors.ended(full);
  return { from, sweep: start.sweep };
}

describe('floors', () => {
  it('within a burst claims go on where the last one ended; every quarter of a second from the floor', () => {
    let now = 0;
    const floors = new Floors(() => now);
    expect(claimOf(floors, [10, 20])).toEqual({ from: undefined, sweep: true });
    expect(claimOf(floors, [20, 30])).toEqual({ from: 20, sweep: false });
    now = 250;
    expect(claimOf(floors, [40])).toEqual({ from: undefined, sweep: true });
    expect(claimOf(floors, [50], false)).toEqual({ from: 40, sweep: false });
    // The burst is over: before it sleeps, and when it wakes up, it looks from the floor.
    expect(claimOf(floors, [], false)).toEqual({ from: undefined, sweep: true });
  });

  it('the floor rises only when all transactions of before the mark have ended, and a claim from the floor found nothing late', () => {
    let now = 0;
    const floors = new Floors(() => now);
    claimOf(floors, [10, 20]);
    expect(floors.wantsMark).toBe(true);
    floors.marked({ moment: 25, own: 7n, endedBelow: 5n, server: 1 });
    expect(floors.wantsMark).toBe(false);
    now = 250;
    expect(claimOf(floors, [30]).from).toBeUndefined();
    now = 500;
    // Transaction 6 still runs.
    floors.marked({ moment: 35, own: 9n, endedBelow: 6n, server: 1 });
    expect(claimOf(floors, [40]).from).toBeUndefined();
    now = 750;
    // All below 8 have ended: nothing due before 25 can appear. But this claim finds what appeared before.
    floors.marked({ moment: 45, own: 10n, endedBelow: 8n, server: 1 });
    expect(claimOf(floors, [15, 50]).from).toBeUndefined();
    now = 1_000;
    expect(claimOf(floors, [60]).from).toBeUndefined();
    now = 1_250;
    expect(claimOf(floors, [70]).from).toBe(25);
    floors.marked({ moment: 75, own: 12n, endedBelow: 12n, server: 1 });
    now = 1_500;
    claimOf(floors, [80]);
    now = 1_750;
    // No higher than what had been claimed.
    expect(claimOf(floors, [90]).from).toBe(70);
  });

  it('fall back to the start when told, when the clock of the database is set back, and now and then', () => {
    let now = 0;
    const floors = new Floors(() => now);
    const raise = () => {
      claimOf(floors, [10, 20]);
      floors.marked({ moment: 25, own: 7n, endedBelow: 7n, server: 1 });
      now += 250;
      claimOf(floors, [30]);
      now += 250;
      expect(claimOf(floors, [40]).from).toBe(20);
    };
    raise();
    floors.fallBack();
    expect(claimOf(floors, []).from).toBeUndefined();
    raise();
    floors.marked({ moment: 5, own: 20n, endedBelow: 20n, server: 1 });
    expect(claimOf(floors, []).from).toBeUndefined();
    raise();
    expect(floors.areOf(1)).toBe(true);
    expect(floors.areOf(2)).toBe(false);
    floors.marked({ moment: 25, own: 8n, endedBelow: 8n, server: 2 });
    expect(floors.areOf(2)).toBe(true);
    expect(claimOf(floors, []).from).toBeUndefined();
    floors.fallBack();
    raise();
    now += 300_000;
    expect(claimOf(floors, []).from).toBeUndefined();
  });
});

describe('rows that are committed late', () => {
  it('behind the cursor of a burst are found before the daemon sleeps, with nobody to wake it', async () => {
    const db = await createDatabase();
    const handler = fakeHandler();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], prefetch: 50 });
    const late = await Promise.all(Array.from({ length: 4 }, () => db.connect()));
    const all = countEvents(reconciler, 'cleanup_done', 3_004);
    for (const [i, client] of late.entries()) {
      // Its time is taken now; it is committed in the middle of the burst.
      await client.query('BEGIN');
      await client.query(`SELECT afterdelete.enqueue('fake://store/late/${i}')`);
    }
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'fake://store/' || i FROM generate_series(1, 3000) i",
    );
    await reconciler.start();
    for (const [i, client] of late.entries()) {
      await until(() => handler.seen.length > 500 * i, 'the burst to go on');
      await client.query('COMMIT');
    }
    await all;
  });

  it('behind the floor there are none, however long a transaction takes: the floor waits for it', async () => {
    const db = await createDatabase();
    const handler = fakeHandler();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler] });
    const client = await db.connect();
    await client.query('BEGIN');
    await client.query("SELECT afterdelete.enqueue('fake://store/late')");
    await reconciler.start();
    // So many wake-ups that the floor would have risen.
    for (let i = 0; i < 4; i++) {
      const done = nextEvent(reconciler, 'cleanup_done');
      await db.sql("SELECT afterdelete.enqueue('fake://store/' || $1::text)", [i]);
      await done;
      const before = performance.now();
      await until(() => performance.now() > before + 260);
    }
    const done = nextEvent(reconciler, 'cleanup_done');
    await client.query('COMMIT');
    expect((await done).target).toBe('fake://store/late');
  });
});
