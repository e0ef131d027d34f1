/** A database on each major for the tests of watches: its schema belongs to the keeper, who is no superuser. */
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, describe, inject, onTestFinished } from 'vitest';
import { isInstalled, KEPT_TEMPLATE, MAJORS, type ROLES } from '../support/majors.ts';
import type { PostgresMajor } from '../support/postgres.ts';
import { databaseUrl, execute } from '../support/server.ts';

export type Role = 'postgres' | (typeof ROLES)[number];
type Row = Record<string, unknown>;

export interface WatchOptions {
  readonly condition?: string;
  readonly delay?: string;
  readonly prune_parents?: number;
}

/** What a watch has buried. */
export interface Dead {
  readonly target: string;
  readonly source: string;
  readonly last_error: string;
  readonly actor: string;
  readonly final: boolean;
}

export interface World {
  readonly major: PostgresMajor;
  readonly url: string;
  /** Runs one statement, or several without values, as the keeper; names are looked for in the schema app. */
  sql<T extends object = Row>(text: string, values?: unknown[]): Promise<T[]>;
  /** The same as another role. */
  as(role: Role): Pick<World, 'sql'>;
  /** A session of its own, ended with the test. */
  connect(role?: Role): Promise<pg.Client>;
  /** Declares a watch as the keeper; returns its number. */
  watch(relation: string, template: string, options?: WatchOptions): Promise<string>;
  /** The targets in pending, in the order of their bytes. */
  written(): Promise<string[]>;
  dead(): Promise<Dead[]>;
  /** What is in pending, and forgotten. */
  taken(): Promise<string[]>;
  /** What the guard says of a target: kept, blocked, or free. */
  verdict(target: string): Promise<string>;
}

/** Describes the same tests for every major; each has a database of its own for the file, emptied before each test. */
export function onEveryMajor(subject: string, tests: (world: World) => void): void {
  for (const major of MAJORS) {
    describe.skipIf(!isInstalled(major))(`PostgreSQL ${major}: ${subject}`, () => tests(makeWorld(major)));
  }
}

let counter = 0;

function makeWorld(major: PostgresMajor): World {
  const name = `watches_${process.pid}_${++counter}`;
  const pools = new Map<Role, pg.Pool>();
  let server = '';
  const urlOf = (role: Role) => databaseUrl(server, name, role);

  beforeAll(async () => {
    const response = await fetch(`${inject('majors')}/${major}`);
    server = await response.text();
    if (!response.ok) throw new Error(server);
    await execute(server, `CREATE DATABASE ${name} TEMPLATE ${KEPT_TEMPLATE} STRATEGY file_copy`);
  });
  beforeEach(() => run('postgres', EMPTY));
  afterAll(async () => {
    await Promise.all([...pools.values()].map(pool => pool.end()));
    await execute(server, `DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
  });

  async function run<T extends object = Row>(role: Role, text: string, values: unknown[] = []): Promise<T[]> {
    let pool = pools.get(role);
    if (pool === undefined) {
      pool = new pg.Pool({ connectionString: urlOf(role), max: 1, options: '-c search_path=app' });
      // DROP DATABASE ends what is still open.
      pool.on('error', () => {});
      pools.set(role, pool);
    }
    return rowsOf<T>(await pool.query(text, values));
  }

  const written = async () =>
    (
      await run<{ target: string }>(
        'postgres',
        'SELECT target::text FROM afterdelete.pending_file_cleanup ORDER BY target, id',
      )
    ).map(row => row.target);
  return {
    major,
    get url() {
      return urlOf('keeper');
    },
    sql: (text, values) => run('keeper', text, values),
    as: role => ({ sql: (text, values) => run(role, text, values) }),
    connect: async (role = 'keeper') => {
      const client = new pg.Client({ connectionString: urlOf(role), options: '-c search_path=app' });
      client.on('error', () => {});
      await client.connect();
      onTestFinished(() => client.end());
      return client;
    },
    watch: async (relation, template, options = {}) => {
      const { condition = 'true', delay = '0', prune_parents = 0 } = options;
      const [row] = await run<{ id: string }>(
        'keeper',
        'SELECT afterdelete.watch($1, $2, $3, $4, $5) AS id',
        [relation, template, condition, delay, prune_parents],
      );
      return (row as { id: string }).id;
    },
    written,
    taken: async () => {
      const targets = await written();
      await run('postgres', 'DELETE FROM afterdelete.pending_file_cleanup');
      return targets;
    },
    dead: () =>
      run<Dead>(
        'postgres',
        'SELECT target, source, last_error, actor, final FROM afterdelete.dead_file_cleanup ORDER BY target, id',
      ),
    verdict: async target => {
      const [row] = await run<{ verdict: string }>(
        'keeper',
        'SELECT * FROM afterdelete.verdicts(ARRAY[$1])',
        [target],
      );
      return row?.verdict ?? 'free';
    },
  };
}

/** A table t (v of a type), watched by a template; holds and deletes one value. */
export async function deletedValue(
  world: World,
  type: string,
  value: string | null,
  template = 'file:///data/{v}',
) {
  await world.sql(
    `CREATE TABLE IF NOT EXISTS t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v ${type})`,
  );
  await world.watch('t', template);
  await world.sql('INSERT INTO t (v) VALUES ($1)', [value]);
  await world.sql('DELETE FROM t');
  return await world.taken();
}

/** The rows of the last statement. */
export function rowsOf<T>(result: pg.QueryResult | pg.QueryResult[]): T[] {
  const last = Array.isArray(result) ? result.at(-1) : result;
  return (last?.rows ?? []) as T[];
}

const EMPTY = `DO $do$
DECLARE
  name text;
BEGIN
  SET LOCAL client_min_messages = warning;
  FOR name IN SELECT n.nspname FROM pg_namespace n
               WHERE n.nspname NOT IN ('afterdelete', 'information_schema', 'public') AND n.nspname NOT LIKE 'pg\\_%' LOOP
    EXECUTE format('DROP SCHEMA %I CASCADE', name);
  END LOOP;
  FOR name IN SELECT p.oid::regprocedure FROM pg_proc p
               WHERE p.pronamespace = 'afterdelete'::regnamespace AND p.proname ~ '^capture_[0-9]+$' LOOP
    EXECUTE format('DROP FUNCTION %s CASCADE', name);
  END LOOP;
  DELETE FROM afterdelete.watched;
  DELETE FROM afterdelete.pending_file_cleanup;
  DELETE FROM afterdelete.dead_file_cleanup;
  DELETE FROM afterdelete.done_file_cleanup;
  CREATE SCHEMA app AUTHORIZATION keeper;
  GRANT USAGE ON SCHEMA app TO PUBLIC;
END
$do$`;
