/** Sleeping daemons hear of every row, and writers notify only when one sleeps. */
import type pg from 'pg';
import { describe, expect, inject, it, onTestFinished } from 'vitest';
import { WakeUp } from '../../src/outbox/wake.ts';
import { until } from '../support/reconciler.ts';
import { addWorker, claim, fileDatabase, put, STORE, through, value } from './rows.ts';

const db = fileDatabase();
const LOCK = 'SELECT pg_try_advisory_lock(1634104420, hashtext($1)) AS armed';

/** A session that listens: what it has heard, once all that was committed before has arrived. */
async function listener(): Promise<{
  client: pg.Client;
  heard: () => Promise<unknown[]>;
  arm: (store?: string) => Promise<boolean>;
}> {
  const client = await db.connect();
  const payloads: unknown[] = [];
  client.on('notification', message => payloads.push(message.payload));
  await client.query('LISTEN afterdelete');
  return {
    client,
    // An answer comes after the notifications that precede it.
    heard: async () => {
      await client.query('SELECT 1');
      return payloads.splice(0);
    },
    arm: async (store = STORE) =>
      (await client.query<{ armed: boolean }>(LOCK, [store])).rows[0]?.armed === true,
  };
}

describe('the trigger', () => {
  it('notifies nobody while nobody sleeps', async () => {
    const { heard } = await listener();
    await put(db);
    expect(await heard()).toEqual([]);
  });

  it('notifies when somebody holds the key of a written store, once a transaction', async () => {
    const { heard, arm } = await listener();
    expect(await arm()).toBe(true);
    const client = await db.connect();
    await client.query('BEGIN');
    for (let i = 0; i < 5; i++) await client.query('SELECT afterdelete.enqueue($1)', [`${STORE}/${i}`]);
    expect(await heard()).toEqual([]);
    await client.query('COMMIT');
    expect(await heard()).toEqual(['']);
    await put(db, 's3://other/k');
    expect(await heard()).toEqual([]);
  });

  it('notifies when one of several stores in one statement has its key held', async () => {
    const { heard, arm } = await listener();
    await arm('s3://b2');
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 's3://b' || i || '/k' FROM generate_series(1, 3) i",
    );
    expect(await heard()).toEqual(['']);
  });

  it('does not notify for a statement that writes no row', async () => {
    const { heard, arm } = await listener();
    await arm();
    await db.sql("INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 's3://b/k' WHERE false");
    expect(await heard()).toEqual([]);
  });

  it('does not notify for a transaction that rolls back', async () => {
    const { heard, arm } = await listener();
    await arm();
    const client = await db.connect();
    await client.query('BEGIN');
    await client.query('SELECT afterdelete.enqueue($1)', [`${STORE}/a`]);
    await client.query('ROLLBACK');
    expect(await heard()).toEqual([]);
  });

  it('keeps a daemon from arming until the writer has ended', async () => {
    const { arm } = await listener();
    const client = await db.connect();
    await client.query('BEGIN');
    await client.query('SELECT afterdelete.enqueue($1)', [`${STORE}/a`]);
    expect(await arm()).toBe(false);
    expect(await arm('s3://other')).toBe(true);
    await client.query('COMMIT');
    expect(await arm()).toBe(true);
  });

  it('lets a daemon arm after the writer went back to a savepoint: the row is gone too', async () => {
    const { arm } = await listener();
    const client = await db.connect();
    await client.query('BEGIN; SAVEPOINT s');
    await client.query('SELECT afterdelete.enqueue($1)', [`${STORE}/a`]);
    expect(await arm()).toBe(false);
    await client.query('ROLLBACK TO SAVEPOINT s');
    expect(await arm()).toBe(true);
    await client.query('COMMIT');
  });

  it('lets many writers in at once', async () => {
    const clients = await Promise.all([db.connect(), db.connect(), db.connect()]);
    for (const client of clients) await client.query('BEGIN');
    for (const client of clients) await client.query('SELECT afterdelete.enqueue($1)', [`${STORE}/a`]);
    for (const client of clients) await client.query('COMMIT');
    expect(await value(db, 'SELECT count(*)::int FROM afterdelete.pending_file_cleanup')).toBe(3);
  });

  it.each([
    [16, 16, []],
    [17, 17, ['']],
    [5_000, 17, ['']],
  ])('of %i stores in one statement holds %i keys, and notifies %j', async (stores, keys, payloads) => {
    const { heard } = await listener();
    const client = await db.connect();
    await client.query('BEGIN');
    await client.query(
      "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 's3://b' || i || '/k' FROM generate_series(1, $1) i",
      [stores],
    );
    const { processID } = client as unknown as { processID: number };
    expect(
      await value(db, "SELECT count(*)::int FROM pg_locks WHERE locktype = 'advisory' AND pid = $1", [
        processID,
      ]),
    ).toBe(keys);
    await client.query('COMMIT');
    expect(await heard()).toEqual(payloads);
  });

  it('fires for COPY and for rows that people retry', async () => {
    const { heard, arm } = await listener();
    await arm();
    const worker = await addWorker(db);
    const id = await put(db);
    await heard();
    const [row] = await claim(db, worker);
    await db.sql(
      "SELECT afterdelete.settle_dead('w', ARRAY[$1::bigint], ARRAY[$2::bigint], ARRAY['e'], ARRAY[0], ARRAY[0])",
      [id, row?.claim],
    );
    expect(await heard()).toEqual([]);
    await db.sql('SELECT afterdelete.retry($1)', [id]);
    expect(await heard()).toEqual(['']);
  });
});

interface Daemon {
  readonly wake: WakeUp;
  readonly name: string;
  readonly rings: string[];
  readonly changes: { listening: boolean; reason: string }[];
  backends(): Promise<{ pid: number; query: string }[]>;
}

/** The way of the pooled connections. */
const notify = async (payload: string) =>
  void (await db.sql("SELECT pg_notify('afterdelete', $1)", [payload]));

let counter = 0;
async function daemon(url = db.url): Promise<Daemon> {
  const name = `wake test ${process.pid} ${++counter}`;
  const rings: string[] = [];
  const changes: { listening: boolean; reason: string }[] = [];
  const wake = new WakeUp({
    url,
    applicationName: name,
    notify,
    onRing: payload => rings.push(payload),
    onListening: (listening, reason) => changes.push({ listening, reason }),
  });
  onTestFinished(() => wake.close());
  await wake.start();
  return {
    wake,
    name,
    rings,
    changes,
    backends: () =>
      db.sql<{ pid: number; query: string }>(
        'SELECT pid, query FROM pg_stat_activity WHERE application_name = $1 ORDER BY pid',
        [name],
      ),
  };
}

describe('WakeUp', () => {
  it('listens once it has heard a nonce of its own, and says so', async () => {
    const { wake, changes, rings, backends } = await daemon();
    expect(wake.listening).toBe(true);
    expect(changes).toEqual([{ listening: true, reason: expect.any(String) }]);
    expect(rings).toEqual([]);
    expect(await backends()).toHaveLength(2);
  });

  it('does not ring for the nonce of another', async () => {
    const [one, two] = [await daemon(), await daemon()];
    await two.wake.verify();
    await one.wake.verify();
    expect(one.rings).toEqual([]);
    expect(two.rings).toEqual([]);
  });

  it('rings when it is armed, and is not notified when it is disarmed', async () => {
    const { wake, rings } = await daemon();
    expect([...(await wake.arm([STORE, 's3://b']))].sort()).toEqual([STORE, 's3://b']);
    await put(db);
    await until(() => rings.length === 1, 'the ring');
    await wake.disarm();
    const { heard } = await listener();
    await put(db);
    await wake.verify();
    // Each session hears in its own time, and in the order of the commits.
    const all: unknown[] = [];
    await until(async () => all.push(...(await heard())) > 0, 'the nonce to be heard by the other session');
    expect(all).toEqual([expect.stringMatching(/^nonce /)]);
    expect(rings).toEqual(['']);
  });

  it('tells that a store was paused', async () => {
    const { rings } = await daemon();
    await db.sql('SELECT afterdelete.pause($1)', [STORE]);
    await until(() => rings.length === 1, 'the ring');
    expect(rings).toEqual(['pauses']);
  });

  it('does not arm while a write is in flight, and does after it', async () => {
    const { wake } = await daemon();
    const client = await db.connect();
    await client.query('BEGIN');
    await client.query('SELECT afterdelete.enqueue($1)', [`${STORE}/a`]);
    expect([...(await wake.arm([STORE, 's3://b']))]).toEqual(['s3://b']);
    await client.query('COMMIT');
    expect([...(await wake.arm([STORE, 's3://b']))].sort()).toEqual([STORE, 's3://b']);
  });

  it('gives a key to one of two, and both hear the notification', async () => {
    const [one, two] = [await daemon(), await daemon()];
    expect((await one.wake.arm([STORE])).has(STORE)).toBe(true);
    expect((await two.wake.arm([STORE])).has(STORE)).toBe(false);
    await put(db);
    await until(() => one.rings.length === 1 && two.rings.length === 1, 'both rings');
    await one.wake.disarm();
    expect((await two.wake.arm([STORE])).has(STORE)).toBe(true);
  });

  it('arms twice and disarms once: no key is left behind', async () => {
    const { wake } = await daemon();
    await wake.arm([STORE]);
    await wake.arm([STORE]);
    await wake.disarm();
    await wake.disarm();
    const { arm } = await listener();
    expect(await arm()).toBe(true);
  });

  it.each(['the session that listens', 'the session that holds the keys'])(
    'when %s is terminated says so, gives its keys back and listens again',
    async which => {
      const { wake, rings, changes, backends } = await daemon();
      await wake.arm([STORE]);
      const holders = await db.sql<{ pid: number }>(
        "SELECT DISTINCT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 1634104420",
      );
      const keys = holders.map(row => row.pid);
      const sessions = (await backends())
        .map(row => row.pid)
        .filter(pid => keys.includes(pid) === (which === 'the session that holds the keys'));
      expect(sessions).toHaveLength(1);
      await db.sql('SELECT pg_terminate_backend($1)', [sessions[0]]);
      await until(() => changes.length >= 3, 'listening again');
      expect(changes.map(change => change.listening)).toEqual([true, false, true]);
      expect(wake.listening).toBe(true);
      expect((await wake.arm([STORE])).has(STORE)).toBe(true);
      await put(db);
      await until(() => rings.length > 0, 'the ring');
      await until(async () => (await backends()).length === 2, 'two sessions and no more');
    },
  );

  it('that is not listening arms nothing', async () => {
    const { wake } = await daemon();
    await wake.close();
    expect((await wake.arm([STORE])).size).toBe(0);
    await wake.disarm();
    await wake.verify();
  });

  it('goes on trying when the database cannot be reached', async () => {
    const url = new URL(db.url);
    url.pathname = '/afterdelete_no_such_database';
    const { wake, changes } = await daemon(url.href);
    expect(wake.listening).toBe(false);
    // Told once, however often it tries.
    expect(changes).toEqual([{ listening: false, reason: expect.any(String) }]);
    await wake.close();
  });

  it('closed leaves no session behind, armed or not, even while it connects', async () => {
    const { wake, backends } = await daemon();
    await wake.arm([STORE]);
    await wake.close();
    await until(async () => (await backends()).length === 0, 'the sessions to end');
    const name = `wake test ${process.pid} ${++counter}`;
    const another = new WakeUp({
      url: db.url,
      applicationName: name,
      notify,
      onRing: () => {},
      onListening: () => {},
    });
    const starting = another.start();
    await another.close();
    await starting;
    await until(
      async () =>
        (await value<number>(db, 'SELECT count(*)::int FROM pg_stat_activity WHERE application_name = $1', [
          name,
        ])) === 0,
      'the sessions to end',
    );
    expect(another.listening).toBe(false);
  });

  // Reported: the second nonce takes the place of the first, whose loss is then taken for a deaf session.
  it('verified twice at once goes on listening', async () => {
    const { wake, changes } = await daemon();
    await Promise.all([wake.verify(), wake.verify()]);
    expect(changes).toHaveLength(1);
    expect(wake.listening).toBe(true);
  });
});

describe('WakeUp whose direct connection leads to another database', () => {
  it('hears no nonce, and does not say that it listens', async () => {
    const other = new URL(db.url);
    other.pathname = new URL(inject('serverUrl')).pathname;
    const { wake, changes } = await daemon(other.href);
    expect(wake.listening).toBe(false);
    expect(changes).toEqual([{ listening: false, reason: expect.stringContaining('LISTEN hears nothing') }]);
    expect((await wake.arm([STORE])).size).toBe(0);
  });
});

describe('the protocol', () => {
  it('loses no wake-up in 3,000 rounds of writers against one sleeper that never polls', {
    timeout: 240_000,
  }, async () => {
    const ROUNDS = 3_000;
    const WRITERS = 3;
    const worker = await addWorker(db);
    const rings = { count: 0, wake: undefined as (() => void) | undefined };
    const sleeper = new WakeUp({
      url: db.url,
      applicationName: 'wake test race',
      notify,
      onRing: () => {
        rings.count += 1;
        rings.wake?.();
      },
      onListening: () => {},
    });
    onTestFinished(() => sleeper.close());
    await sleeper.start();

    /** Writers wait for this: their own row has been claimed. */
    const claimedRows = new Map<string, () => void>();
    let claimed = 0;
    const claimer = through(await db.connect());
    const take = async () => {
      const rows = await claim(claimer, worker);
      claimed += rows.length;
      for (const row of rows) {
        claimedRows.get(row.target)?.();
        claimedRows.delete(row.target);
      }
      return rows.length;
    };
    let sleeps = 0;
    const sleep = async () => {
      while (claimed < ROUNDS) {
        const before = rings.count;
        if ((await take()) > 0) {
          await sleeper.disarm();
          continue;
        }
        // A store whose key is not to be had has a write in flight: claim again.
        if (!(await sleeper.arm([STORE])).has(STORE)) continue;
        if ((await take()) > 0 || claimed >= ROUNDS) continue;
        sleeps += 1;
        if (rings.count === before) await new Promise<void>(resolve => (rings.wake = resolve));
      }
    };
    let next = 0;
    const write = async (n: number) => {
      const client = await db.connect();
      let state = n + 1;
      while (next < ROUNDS) {
        const target = `${STORE}/${next++}`;
        const done = new Promise<void>(resolve => claimedRows.set(target, resolve));
        state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
        const kind = (state >>> 16) % 3;
        if (kind === 0) await client.query('SELECT afterdelete.enqueue($1)', [target]);
        else {
          await client.query('BEGIN');
          if (kind === 1)
            await client.query(
              `SAVEPOINT s; SELECT afterdelete.enqueue('${STORE}/never'); ROLLBACK TO SAVEPOINT s`,
            );
          await client.query('SELECT afterdelete.enqueue($1)', [target]);
          if (kind === 2) await client.query('SELECT pg_sleep(0.0005)');
          await client.query('COMMIT');
        }
        // A wake-up that is lost ends here, in the test's time-out.
        await done;
        // Or the sleeper would hardly ever sleep.
        for (let pause = (state >>> 20) % 12; pause > 0; pause--) await client.query('SELECT 1');
      }
    };
    await Promise.all([sleep(), ...Array.from({ length: WRITERS }, (_, n) => write(n))]);
    expect(claimed).toBe(ROUNDS);
    expect(sleeps).toBeGreaterThan(100);
  });
});

describe('a session that is lost while its nonce is under way', () => {
  it('keeps no later one from proving that it hears', async () => {
    let sent = 0;
    const sleeper = new WakeUp({
      url: db.url,
      applicationName: 'wake test nonce',
      // The second is the one of a safety poll: it never arrives.
      notify: async payload => {
        if (++sent !== 2) await notify(payload);
      },
      onRing: () => {},
      onListening: () => {},
    });
    onTestFinished(() => sleeper.close());
    await sleeper.start();
    expect(sleeper.listening).toBe(true);
    const verified = sleeper.verify();
    await until(() => sent === 2, 'the nonce of the poll');
    await db.sql(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'wake test nonce'",
    );
    await until(() => !sleeper.listening, 'the loss');
    await verified;
    await until(() => sleeper.listening, 'the new session', 5_000);
  });
});
