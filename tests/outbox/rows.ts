/** Short words for what tests of the database do again and again. */
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, inject, onTestFinished } from 'vitest';
import { type Database, openDatabase } from '../../src/outbox/database.ts';
import { Outbox } from '../../src/outbox/outbox.ts';
import { openTestDatabase, type TestDatabase } from '../support/database.ts';
import { databaseUrl } from '../support/server.ts';

/** The store that tests use when they do not care which. */
export const STORE = 'fake://store';

/**
 * One database for all tests of a file, emptied before each: cloning takes longer than most of these tests. Clients are
 * ended with their test, so that no transaction is left open.
 */
export function fileDatabase(): TestDatabase {
  let database: ReturnType<typeof openTestDatabase> | undefined;
  const open = () => {
    if (database === undefined) throw new Error('the database of the file is there for its tests only');
    return database;
  };
  const name = `afterdelete_file_${process.pid}`;
  beforeAll(async () => {
    await atServer(`CREATE DATABASE ${name} TEMPLATE ${inject('template')}`);
    database = openTestDatabase(databaseUrl(inject('serverUrl'), name), name);
  });
  beforeEach(async () => {
    await open().sql(
      `TRUNCATE afterdelete.pending_file_cleanup, afterdelete.running_file_cleanup, afterdelete.done_file_cleanup,
         afterdelete.dead_file_cleanup, afterdelete.worker, afterdelete.worker_pause, afterdelete.store_pause,
         afterdelete.file_root, afterdelete.fuse_count`,
    );
  });
  afterAll(async () => {
    await database?.close();
    await atServer(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
  });
  return {
    get url() {
      return open().url;
    },
    name,
    sql: (text, values) => open().sql(text, values),
    connect: async () => {
      const client = await open().connect();
      onTestFinished(() => client.end().catch(() => {}));
      return client;
    },
  };
}

/** Runs a statement in the server's maintenance database. */
export async function atServer(sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: inject('serverUrl') });
  await client.connect();
  try {
    await client.query(sql);
  } finally {
    await client.end();
  }
}

export interface WorkerOptions {
  readonly name?: string;
  readonly stores?: readonly string[];
  /** Default: all of each store. */
  readonly roots?: readonly string[];
  readonly lease?: string;
  readonly history?: string;
}

/** A worker with a lease of an hour, unless told otherwise; returns its id. */
export async function addWorker(db: Pick<TestDatabase, 'sql'>, options: WorkerOptions = {}): Promise<string> {
  const { name = 'w', stores = [STORE], lease = '1 hour', history = '30 days' } = options;
  const { roots = stores.map(store => `${store}/`) } = options;
  const [row] = await db.sql<{ id: string }>('SELECT afterdelete.register($1, $2, $3, $4, $5, $6) AS id', [
    name,
    'test',
    stores,
    roots,
    lease,
    history,
  ]);
  return (row as { id: string }).id;
}

/** Lets a worker's lease end now; its row stands until somebody reaps it. */
export async function expire(db: Pick<TestDatabase, 'sql'>, worker: string): Promise<void> {
  await db.sql(
    "UPDATE afterdelete.worker SET lease_until = clock_timestamp() - interval '1 second' WHERE id = $1",
    [worker],
  );
}

export interface Running {
  readonly id: string;
  readonly claim: string;
  readonly worker: string;
  readonly target: string;
  readonly store: string;
  readonly attempt: number;
  readonly lost: number;
  readonly last_error: string | null;
  readonly first_due_at: Date;
  readonly objects_deleted: string | null;
}

export async function claim(
  db: Pick<TestDatabase, 'sql'>,
  worker: string,
  room = 1000,
  stores: readonly string[] = [STORE],
): Promise<Running[]> {
  const rows = await db.sql<{ id: string }>('SELECT unnest(ids) AS id FROM afterdelete.claim($1, $2, $3)', [
    worker,
    stores,
    stores.map(() => room),
  ]);
  return await db.sql<Running>(
    'SELECT * FROM afterdelete.running_file_cleanup WHERE id = ANY ($1) ORDER BY first_due_at, id',
    [rows.map(row => row.id)],
  );
}

/** Writes so many rows, `fake://store/1` and on; due now, or later than now by the interval. */
export async function fill(db: Pick<TestDatabase, 'sql'>, count: number, later = '0'): Promise<void> {
  await db.sql(
    "INSERT INTO afterdelete.pending_file_cleanup (target, run_at) SELECT 'fake://store/' || i, now() + $2::interval FROM generate_series(1, $1::int) i",
    [count, later],
  );
}

/** Writes one row through `enqueue` and returns its id. */
export async function put(
  db: Pick<TestDatabase, 'sql'>,
  target = `${STORE}/a`,
  delay = '0',
): Promise<string> {
  return await value<string>(db, 'SELECT afterdelete.enqueue($1, $2)', [target, delay]);
}

/** The only value of the only row. */
export async function value<T>(
  db: Pick<TestDatabase, 'sql'>,
  text: string,
  values: unknown[] = [],
): Promise<T> {
  const rows = await db.sql<Record<string, T>>(text, values);
  const [row] = rows;
  if (rows.length !== 1 || row === undefined)
    throw new Error(`expected one row, got ${rows.length}: ${text}`);
  return Object.values(row)[0] as T;
}

/** In which states there are how many rows. */
export async function states(
  db: Pick<TestDatabase, 'sql'>,
): Promise<Record<'pending' | 'running' | 'done' | 'dead', number>> {
  const [row] = await db.sql<Record<'pending' | 'running' | 'done' | 'dead', number>>(
    `SELECT (SELECT count(*)::int FROM afterdelete.pending_file_cleanup) AS pending,
            (SELECT count(*)::int FROM afterdelete.running_file_cleanup) AS running,
            (SELECT count(*)::int FROM afterdelete.done_file_cleanup) AS done,
            (SELECT count(*)::int FROM afterdelete.dead_file_cleanup) AS dead`,
  );
  return row as Record<'pending' | 'running' | 'done' | 'dead', number>;
}

/** Settles what was claimed as deleted; returns the ids that were still held. */
export async function settleDone(
  db: Pick<TestDatabase, 'sql'>,
  rows: readonly Pick<Running, 'id' | 'claim'>[],
): Promise<string[]> {
  const fenced = await value<string[]>(
    db,
    `SELECT afterdelete.settle_done('w', true, $1, $2, array_fill('deleted'::text, ARRAY[$3::int]),
       array_fill(1::bigint, ARRAY[$3::int]), array_fill(10::bigint, ARRAY[$3::int]), array_fill(NULL::text, ARRAY[$3::int]))`,
    [rows.map(row => row.id), rows.map(row => row.claim), rows.length],
  );
  return heldOf(rows, fenced);
}

const heldOf = (rows: readonly Pick<Running, 'id'>[], fenced: readonly string[]) =>
  [...new Set(rows.map(row => row.id))].filter(id => !fenced.includes(id));

export interface Back {
  readonly reason?: string;
  /** In ms. */
  readonly delay?: number;
  readonly error?: string | null;
  readonly objects?: number | null;
  readonly bytes?: number | null;
}

/** Puts what was claimed back to pending; returns the ids that were still held. */
export async function settleBack(
  db: Pick<TestDatabase, 'sql'>,
  rows: readonly Pick<Running, 'id' | 'claim'>[],
  back: Back = {},
): Promise<string[]> {
  const { reason = 'retry', delay = 0, error = null, objects = null, bytes = null } = back;
  const fenced = await value<string[]>(db, 'SELECT afterdelete.settle_back($1, $2, $3, $4, $5, $6, $7)', [
    rows.map(row => row.id),
    rows.map(row => row.claim),
    rows.map(() => reason),
    rows.map(() => delay),
    rows.map(() => error),
    rows.map(() => objects),
    rows.map(() => bytes),
  ]);
  return heldOf(rows, fenced);
}

export async function settleDead(
  db: Pick<TestDatabase, 'sql'>,
  rows: readonly Pick<Running, 'id' | 'claim'>[],
  error = 'access denied',
): Promise<string[]> {
  const fenced = await value<string[]>(db, "SELECT afterdelete.settle_dead('w', $1, $2, $3, $4, $5)", [
    rows.map(r => r.id),
    rows.map(r => r.claim),
    rows.map(() => error),
    rows.map(() => 1),
    rows.map(() => 10),
  ]);
  return heldOf(rows, fenced);
}

/** One row that has died, with its id. */
export async function addDead(
  db: Pick<TestDatabase, 'sql'>,
  worker: string,
  error = 'access denied',
): Promise<string> {
  const id = await put(db);
  await settleDead(db, await claim(db, worker), error);
  return id;
}

/** What the program itself speaks to the database with; closed with the test. */
export function openOutbox(url: string): { outbox: Outbox; kysely: Database } {
  const kysely = openDatabase(url);
  onTestFinished(() => kysely.destroy());
  return { outbox: new Outbox(kysely), kysely };
}

/** A row that must be there. */
export function only<T>(rows: readonly T[]): T {
  const [row] = rows;
  if (row === undefined || rows.length !== 1) throw new Error(`expected one row, got ${rows.length}`);
  return row;
}

/** How many tuples of a table a statement reads, by index or in sequence; read from the statistics of its own session. */
export async function tuplesRead(
  client: pg.Client,
  table: string,
  run: () => Promise<unknown>,
): Promise<number> {
  const tuples = async () => {
    const { rows } = await client.query<{ n: number }>(
      `SELECT (pg_stat_get_xact_tuples_returned(c.oid)
               + (SELECT coalesce(sum(pg_stat_get_xact_tuples_returned(i.indexrelid)), 0) FROM pg_index i WHERE i.indrelid = c.oid))::int AS n
         FROM pg_class c WHERE c.oid = ('afterdelete.' || $1)::regclass`,
      [table],
    );
    return rows[0]?.n ?? 0;
  };
  await client.query('BEGIN');
  const before = await tuples();
  await run();
  const after = await tuples();
  await client.query('COMMIT');
  return after - before;
}

/** A client of its own in the place of the pool. */
export function through(client: pg.Client): Pick<TestDatabase, 'sql'> {
  return {
    sql: async <Row extends object>(text: string, values: unknown[] = []) =>
      (await client.query<Row & pg.QueryResultRow>(text, values)).rows,
  };
}

/** Resolves when the client waits for a lock that another session holds. */
export async function waitsForLock(db: Pick<TestDatabase, 'sql'>, client: pg.Client): Promise<void> {
  const { processID } = client as unknown as { processID: number };
  while (!(await value<boolean>(db, 'SELECT cardinality(pg_blocking_pids($1)) > 0', [processID]))) {
    await new Promise(resolve => setTimeout(resolve, 5));
  }
}
