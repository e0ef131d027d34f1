/** What a worker does with the outbox, as the program calls it. */
import { describe, expect, it } from 'vitest';
import { isDataError, isLeaseLost, isLockTimeout, isSchemaError } from '../../src/outbox/errors.ts';
import type { Outbox } from '../../src/outbox/outbox.ts';
import { type ClaimedRow, quoted } from '../../src/outbox/rows.ts';
import { createDatabase } from '../support/database.ts';
import { expire, fileDatabase, fill, only, openOutbox, put, STORE, states, value } from './rows.ts';

const db = fileDatabase();
const register = (outbox: Outbox, stores: readonly string[] = [STORE]) =>
  outbox.register({
    name: 'w',
    version: 'test',
    stores,
    roots: stores.map(s => `${s}/`),
    lease: 3_600_000,
    history: 86_400_000,
  });
const rooms = (room: number) => new Map([[STORE, room]]);
const settled = (row: ClaimedRow) => ({ row, objects: 1, bytes: 10 });
const failed = (error: Promise<unknown>) =>
  error.then(
    () => undefined,
    (e: unknown) => e,
  );

describe('Outbox', () => {
  it('registers a worker with its lease and retention', async () => {
    const { outbox } = openOutbox(db.url);
    const id = await register(outbox);
    expect(
      only(
        await db.sql(
          "SELECT id, name, version, stores, roots, history = interval '1 day' AS kept, lease_until - started_at BETWEEN interval '59 min' AND interval '61 min' AS leased FROM afterdelete.worker",
        ),
      ),
    ).toEqual({
      id,
      name: 'w',
      version: 'test',
      stores: [STORE],
      roots: [`${STORE}/`],
      kept: true,
      leased: true,
    });
  });

  it('claims the rows due longest first, and tells how long they have waited', async () => {
    const { outbox } = openOutbox(db.url);
    const worker = await register(outbox);
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target, created_at, run_at) SELECT 'fake://store/' || i, now() - i * interval '1 minute', now() - i * interval '1 minute' FROM generate_series(1, 9) i",
    );
    const rows = (await outbox.claim(worker, rooms(3))).rows;
    expect(rows.map(row => row.target)).toEqual(['fake://store/9', 'fake://store/8', 'fake://store/7']);
    expect(rows[0]).toMatchObject({
      store: STORE,
      attempt: 0,
      lost: 0,
      pruneParents: 0,
      objects: null,
      bytes: null,
    });
    expect(rows[0]?.waited).toBeGreaterThanOrEqual(540_000);
    expect(rows[0]?.waited).toBeLessThan(600_000);
  });

  it('tells of each row in a claim what has become of it before, in whatever company', async () => {
    const { outbox } = openOutbox(db.url);
    const worker = await register(outbox, [STORE, 'file://']);
    // Due in the order in which they stand here, a minute apart; what has been due before was so an hour before the first of them.
    const states = {
      'fake://store/plain': {},
      'file:///prunes': { prune_parents: 7 },
      'fake://store/handed-back': { first_due_at: true },
      'fake://store/tried': { first_due_at: true, attempt: 3 },
      'file:///plain': {},
      'fake://store/lost': { lost: 2 },
      'fake://store/objects': { objects_deleted: 5 },
      'fake://store/bytes': { bytes_freed: 6 },
    };
    for (const [i, [target, state]] of Object.entries(states).entries())
      await db.sql(
        `INSERT INTO afterdelete.pending_file_cleanup
           (target, created_at, run_at, first_due_at, prune_parents, attempt, lost, objects_deleted, bytes_freed)
         SELECT $1, moment, moment, CASE WHEN s.first_due_at THEN timestamptz '2026-01-01 00:00Z' END, coalesce(s.prune_parents, 0),
                coalesce(s.attempt, 0), coalesce(s.lost, 0), s.objects_deleted, s.bytes_freed
           FROM (SELECT timestamptz '2026-01-01 01:00Z' + $2 * interval '1 minute') AS m (moment),
                jsonb_to_record($3) AS s (first_due_at boolean, prune_parents smallint, attempt integer, lost integer, objects_deleted bigint, bytes_freed bigint)`,
        [target, i, JSON.stringify(state)],
      );
    const { rows, paused } = await outbox.claim(worker, new Map([...rooms(100), ['file://', 100]]));
    expect([...paused]).toEqual([]);
    const plain = { pruneParents: 0, attempt: 0, lost: 0, objects: null, bytes: null };
    const minute = 60_000;
    const due = (i: number) => Date.UTC(2026, 0, 1, 1, i);
    // How long each has waited, beside the first.
    const waited = (row: ClaimedRow) => Math.round((row.waited - (rows[0] as ClaimedRow).waited) / minute);
    expect(rows.map(row => ({ ...row, waited: waited(row), dueAt: row.dueAt / 1_000 }))).toMatchObject([
      { ...plain, target: 'fake://store/handed-back', waited: 0, dueAt: due(2) },
      { ...plain, target: 'fake://store/tried', waited: 0, dueAt: due(3), attempt: 3 },
      { ...plain, target: 'fake://store/plain', waited: -60, dueAt: due(0) },
      { ...plain, target: 'file:///prunes', store: 'file://', waited: -61, dueAt: due(1), pruneParents: 7 },
      { ...plain, target: 'file:///plain', store: 'file://', waited: -64, dueAt: due(4) },
      { ...plain, target: 'fake://store/lost', waited: -65, dueAt: due(5), lost: 2 },
      { ...plain, target: 'fake://store/objects', waited: -66, dueAt: due(6), objects: 5 },
      { ...plain, target: 'fake://store/bytes', waited: -67, dueAt: due(7), bytes: 6 },
    ]);
    const recorded = await db.sql<{ id: string; target: string; claim: string }>(
      'SELECT id, target, claim FROM afterdelete.running_file_cleanup ORDER BY id',
    );
    const byId = [...rows].sort((a, b) => Number(a.id) - Number(b.id));
    expect(byId.map(({ id, target, claim }) => ({ id, target, claim }))).toEqual(recorded);
  });

  it('tells all of a row that runs alone', async () => {
    const { outbox } = openOutbox(db.url);
    const worker = await register(outbox, ['file://']);
    await db.sql(
      `INSERT INTO afterdelete.pending_file_cleanup (target, created_at, run_at, first_due_at, prune_parents, attempt, lost, objects_deleted, bytes_freed)
       VALUES ('file:///suspect', '2026-01-01 01:00Z', '2026-01-01 01:00Z', '2026-01-01 00:00Z', 2, 3, 4, 5, 6)`,
    );
    const row = await outbox.claimSuspect(worker, ['file://']);
    expect(row).toMatchObject({ target: 'file:///suspect', store: 'file://', pruneParents: 2, attempt: 3 });
    expect(row).toMatchObject({ lost: 4, objects: 5, bytes: 6 });
    const since = Date.now() - Date.UTC(2026, 0, 1);
    expect(Math.abs((row?.waited ?? 0) - since)).toBeLessThan(1_800_000);
    expect(only(await db.sql('SELECT id, claim FROM afterdelete.running_file_cleanup'))).toEqual({
      id: row?.id,
      claim: row?.claim,
    });
    expect(await outbox.claimSuspect(worker, ['file://'])).toBeUndefined();
  });

  it('tells which stores are paused, and claims from those that are not', async () => {
    const { outbox } = openOutbox(db.url);
    const worker = await register(outbox, [STORE, 's3://other']);
    await fill(db, 3);
    await put(db, 's3://other/a');
    await db.sql('SELECT afterdelete.pause($1)', ['s3://other']);
    const both = new Map([...rooms(1), ['s3://other', 1]]);
    for (const floors of [new Map(), new Map([[STORE, 0]])]) {
      const { rows, paused } = await outbox.claim(worker, both, [], floors);
      expect(rows.map(row => row.store)).toEqual([STORE]);
      expect([...paused]).toEqual(['s3://other']);
    }
  });

  it('gives out nothing where it cannot tell which target is whose', async () => {
    const own = await createDatabase();
    await own.sql('ALTER DOMAIN afterdelete.target DROP CONSTRAINT target_has_no_control_characters');
    const { outbox } = openOutbox(own.url);
    const worker = await register(outbox);
    await put(own, `${STORE}/a\nb`);
    await expect(outbox.claim(worker, rooms(2))).rejects.toThrow('2 targets for 1 rows');
  });

  it('claims nothing for no stores', async () => {
    const { outbox } = openOutbox(db.url);
    expect((await outbox.claim(await register(outbox), new Map())).rows).toEqual([]);
    expect(await outbox.nextDue([])).toBeUndefined();
  });

  it('tells a lost lease from other errors', async () => {
    const { outbox } = openOutbox(db.url);
    const worker = await register(outbox);
    await expire(db, worker);
    expect(isLeaseLost(await failed(outbox.claim(worker, rooms(1))))).toBe(true);
    expect(isLeaseLost(await failed(outbox.claimSuspect(worker, [STORE])))).toBe(true);
    expect(isLeaseLost(await failed(outbox.claim('not a number', rooms(1))))).toBe(false);
  });

  it('tells a schema that is not there from other errors', async () => {
    const { outbox } = openOutbox((await createDatabase({ empty: true })).url);
    const error = await failed(outbox.reap());
    expect([isSchemaError(error), isDataError(error), isLockTimeout(error), isLeaseLost(error)]).toEqual([
      true,
      false,
      false,
      false,
    ]);
  });

  it('carries progress into the next claim', async () => {
    const { outbox } = openOutbox(db.url);
    const worker = await register(outbox);
    await put(db);
    const row = only((await outbox.claim(worker, rooms(1))).rows);
    await outbox.progress([]);
    await outbox.progress([{ row, objects: 3_000_000_000, bytes: 9_007_199_254_740_991 }]);
    expect(await outbox.deregister(worker)).toBe(1);
    expect(only((await outbox.claim(await register(outbox), rooms(1))).rows)).toMatchObject({
      objects: 3_000_000_000,
      bytes: 9_007_199_254_740_991,
    });
  });

  it('settles nothing of nothing', async () => {
    const { outbox } = openOutbox(db.url);
    expect(await outbox.settleDone('w', true, [])).toEqual([]);
    expect(await outbox.settleBack([])).toEqual([]);
    expect(await outbox.settleDead('w', [])).toEqual([]);
  });

  it('stores any message that storage comes up with: NUL, half of a surrogate pair, megabytes', async () => {
    const { outbox } = openOutbox(db.url);
    const worker = await register(outbox);
    const messages = ['a\0b', 'a\ud800', 'x'.repeat(2_000_000), 'it\'s {a,b} \\ "quoted"', '', 'NULL'];
    await fill(db, messages.length);
    const rows = (await outbox.claim(worker, rooms(100))).rows;
    const dead = rows.map((row, i) => ({
      ...settled(row),
      kind: 'dead' as const,
      error: messages[i] as string,
    }));
    expect(await outbox.settleDead('w', dead)).toEqual([]);
    const errors = (
      await db.sql<{ last_error: string }>('SELECT last_error FROM afterdelete.dead_file_cleanup ORDER BY id')
    ).map(r => r.last_error);
    expect(errors.slice(3)).toEqual(messages.slice(3));
    expect(errors[0]).toMatch(/^a.b$/);
    expect(errors[2]?.length).toBeLessThan(10_000);
  });

  it('hands back the rows that it does not have in hand, and no others', async () => {
    const { outbox } = openOutbox(db.url);
    const [mine, other] = [await register(outbox), await register(outbox)];
    await fill(db, 6);
    const known = (await outbox.claim(mine, rooms(2))).rows;
    await outbox.claim(mine, rooms(2));
    await outbox.claim(other, rooms(2));
    expect(await outbox.handBackStrays(mine, known)).toBe(2);
    expect(await states(db)).toMatchObject({ pending: 2, running: 4 });
    expect(await outbox.handBackStrays(mine, known)).toBe(0);
    expect(await outbox.handBackStrays(mine, known.slice(1))).toBe(1);
    expect(await outbox.handBackStrays(mine, [])).toBe(1);
    expect(
      await db.sql('SELECT DISTINCT attempt, lost, put_back FROM afterdelete.pending_file_cleanup'),
    ).toEqual([{ attempt: 0, lost: 0, put_back: null }]);
  });

  it('puts on record which stores it leaves alone, in place of what stood there', async () => {
    const { outbox } = openOutbox(db.url);
    const [mine, other] = [await register(outbox), await register(outbox)];
    const pauses = () =>
      db.sql(
        'SELECT store, paused_by, reason FROM afterdelete.worker_pause WHERE worker = $1 ORDER BY store',
        [mine],
      );
    await outbox.setPauses(other, [{ store: 's3://b', by: 'breaker', reason: 'down' }]);
    await outbox.setPauses(mine, [
      { store: 's3://a', by: 'breaker', reason: 'down' },
      { store: 's3://b', by: 'root', reason: 'other disk' },
    ]);
    const since = await value<Date>(
      db,
      "SELECT paused_at FROM afterdelete.worker_pause WHERE store = 's3://a'",
    );
    await outbox.setPauses(mine, [{ store: 's3://a', by: 'breaker', reason: 'still down' }]);
    expect(await pauses()).toEqual([{ store: 's3://a', paused_by: 'breaker', reason: 'still down' }]);
    expect(await value(db, "SELECT paused_at FROM afterdelete.worker_pause WHERE store = 's3://a'")).toEqual(
      since,
    );
    await outbox.setPauses(mine, []);
    expect(await pauses()).toEqual([]);
    expect(await value(db, 'SELECT count(*)::int FROM afterdelete.worker_pause')).toBe(1);
  });

  it('records no pause of a worker that is gone', async () => {
    const { outbox } = openOutbox(db.url);
    await outbox.setPauses('9000000000', [{ store: STORE, by: 'breaker', reason: 'down' }]);
    expect(await db.sql('SELECT FROM afterdelete.worker_pause')).toEqual([]);
  });

  it('reads the pauses of the stores it is asked about', async () => {
    const { outbox } = openOutbox(db.url);
    await db.sql("SELECT afterdelete.pause('s3://a', 'why'); SELECT afterdelete.pause('s3://c')");
    expect(await outbox.storePauses(['s3://a', 's3://b'])).toEqual([
      { store: 's3://a', by: 'operator', reason: 'why' },
    ]);
  });

  it('knows the roots of live workers only, each once', async () => {
    const { outbox } = openOutbox(db.url);
    await register(outbox, ['s3://a', 's3://b']);
    await register(outbox, ['s3://b']);
    await expire(db, await register(outbox, ['s3://c']));
    expect(await outbox.liveRoots()).toEqual(['s3://a/', 's3://b/']);
  });

  it('records the identity of a root once: of many at once the first wins, and all hear which', async () => {
    const { outbox } = openOutbox(db.url);
    expect(await outbox.rootIdentity('file:///data/')).toBeUndefined();
    const uuid = (n: number) => `00000000-0000-4000-8000-00000000000${n}`;
    const heard = await Promise.all(
      [1, 2, 3, 4].map(n => outbox.recordRoot('file:///data/', uuid(n), `w${n}`)),
    );
    expect(new Set(heard).size).toBe(1);
    await outbox.adoptRoot('file:///data/', uuid(9), 'alice');
    expect(await outbox.rootIdentity('file:///data/')).toBe(uuid(9));
    expect(await outbox.recordRoot('file:///data/', uuid(1), 'w')).toBe(uuid(9));
  });
});

it.each([
  [['a', 'b c']],
  [[]],
  [['']],
  [['NULL', 'null', '']],
  [['{', '}', ',', '{"a","b"}']],
  [['back\\slash', 'x']],
  [['"', 'a","b']],
  [['line\nbreak', 'tab\t', " ' ", 'é']],
])('texts arrive as they are: %j', async texts => {
  const client = await db.connect();
  const { rows } = await client.query('SELECT $1::text[] AS texts', [quoted(texts)]);
  expect(rows).toEqual([{ texts }]);
});
