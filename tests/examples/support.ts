/**
 * What the tests of the examples share: a database with an application's tables and watches, the roles that its service
 * and the daemon log in with, and what to look at afterwards.
 */
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { inject, onTestFinished } from 'vitest';
import { migrate } from '../../src/index.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { until } from '../support/reconciler.ts';
import { execute } from '../support/server.ts';

const CHECKOUT = fileURLToPath(new URL('../../', import.meta.url));
const PASSWORD = 'secret';

/** A file of the examples, e.g. `mistudio/main.ts`. */
export const example = (name: string) => join(CHECKOUT, 'examples', name);

const read = (path: string) => readFileSync(join(CHECKOUT, path), 'utf8');

export interface ApplicationDatabase extends TestDatabase {
  /** For a role of the application's roles.sql, e.g. `heimdall_api`. */
  urlAs(role: string): string;
  /** Runs watches.sql, as its owner. */
  declare(): Promise<void>;
}

export interface ApplicationOptions {
  /** Changes watches.sql before it is run, e.g. to another data directory. */
  readonly watches?: (sql: string) => string;
  /** Everything belongs to a role that is no superuser, as the README has it. Default: to who runs the tests. */
  readonly ordinaryOwner?: boolean;
}

/** Roles belong to the whole server, so that each test gives them names of its own. */
const ROLES =
  /\b(?:mistudio_service|heimdall_(?:api|generator)|afterdelete_(?:writer|worker|operator|reader))\b/g;
let counter = 0;

/** A database with the schema `afterdelete`, an application's tables, what it declares, and roles to log in with. */
export async function createApplicationDatabase(
  application: string,
  { watches = sql => sql, ordinaryOwner = false }: ApplicationOptions = {},
): Promise<ApplicationDatabase> {
  const prefix = `test_${process.pid}_${++counter}`;
  const roles = new Set<string>();
  const owned = (role: string) => {
    const name = `${prefix}_${role}`;
    roles.add(name);
    return name;
  };
  const renamed = (sql: string) => sql.replaceAll(ROLES, owned);
  // Registered before the database, so that it runs after it: a role that still has rights somewhere cannot be dropped,
  // nor one that has given others theirs.
  onTestFinished(async () => {
    for (const role of [...roles].reverse())
      await execute(inject('serverUrl'), `DROP ROLE IF EXISTS ${role}`);
  });
  const db = await createDatabase({ empty: ordinaryOwner });
  const urlAs = (role: string) => {
    const url = new URL(db.url);
    url.username = `${prefix}_${role}`;
    url.password = PASSWORD;
    return url.href;
  };
  if (ordinaryOwner) {
    await db.sql(`CREATE ROLE ${owned('app')} LOGIN CREATEROLE PASSWORD '${PASSWORD}'`);
    await db.sql(`ALTER DATABASE ${db.name} OWNER TO ${owned('app')}`);
    await migrate(urlAs('app'));
  }
  const run = async (sql: string) => await execute(ordinaryOwner ? urlAs('app') : db.url, sql);
  await run(read(`examples/${application}/schema.sql`));
  const declare = async () => await run(watches(read(`examples/${application}/watches.sql`)));
  await declare();
  await run(renamed(read('sql/optional/roles.sql')));
  await run(renamed(read(`examples/${application}/roles.sql`)));
  for (const role of roles) await db.sql(`ALTER ROLE ${role} LOGIN PASSWORD '${PASSWORD}'`);
  return { ...db, urlAs, declare };
}

/** A pool that ends with the test. */
export function createPool(url: string): pg.Pool {
  const pool = new pg.Pool({ connectionString: url, max: 2 });
  pool.on('error', () => {});
  onTestFinished(() => pool.end());
  return pool;
}

/** Writes a file and the directories above it. */
export function write(path: string, content = 'content'): void {
  mkdirSync(dirname(path), { recursive: true });
  // `flush`: until it is on the disk, a file system may not know how much room a file takes.
  writeFileSync(path, content, { flush: true });
}

/** The files below a directory, or one file, and the room they take: what `du` says, which is what deleting frees. */
export function stored(path: string): { files: number; bytes: number } {
  const files = lstatSync(path).isDirectory()
    ? readdirSync(path, { recursive: true, withFileTypes: true })
        .filter(entry => entry.isFile())
        .map(entry => join(entry.parentPath, entry.name))
    : [path];
  return { files: files.length, bytes: files.reduce((sum, file) => sum + lstatSync(file).blocks * 512, 0) };
}

/** Which of these exist. */
export const existing = (paths: readonly string[]) => paths.filter(path => existsSync(path));

/** The rows of the audit trail, by target. */
export async function audit(db: TestDatabase): Promise<AuditRow[]> {
  return await db.sql<AuditRow>(
    `SELECT target::text, outcome, attempt, objects_deleted::int AS objects
       FROM afterdelete.done_file_cleanup ORDER BY target`,
  );
}

export interface AuditRow {
  readonly target: string;
  readonly outcome: string;
  readonly attempt: number;
  readonly objects: number | null;
}

/** How many cleanups there are, in whatever state. */
export async function cleanups(db: TestDatabase): Promise<number> {
  const [row] = await db.sql<{ count: number }>(
    `SELECT (SELECT count(*) FROM afterdelete.pending_file_cleanup)::int
          + (SELECT count(*) FROM afterdelete.running_file_cleanup)::int
          + (SELECT count(*) FROM afterdelete.done_file_cleanup)::int
          + (SELECT count(*) FROM afterdelete.dead_file_cleanup)::int AS count`,
  );
  return row?.count ?? Number.NaN;
}

/** Waits until the daemon has nothing left to do; what was committed before has been carried out then, or is dead. */
export async function nothingWaits(db: TestDatabase): Promise<void> {
  await until(async () => {
    const rows = await db.sql(
      'SELECT FROM afterdelete.pending_file_cleanup UNION ALL SELECT FROM afterdelete.running_file_cleanup',
    );
    return rows.length === 0;
  }, 'all cleanups done');
}

export interface Stuck {
  readonly state: string;
  readonly reason: string;
  readonly target: string;
  readonly last_error: string;
  readonly source: string;
  readonly actor: string;
}

/** What a person should look at. */
export async function stuck(db: TestDatabase): Promise<Stuck[]> {
  return await db.sql<Stuck>(
    'SELECT state, reason, target, last_error, source, actor FROM afterdelete.stuck ORDER BY target',
  );
}

/** Waits until so many rows are stuck, and returns them: one that is blocked is looked at again and again. */
export async function waitForStuck(db: TestDatabase, count: number): Promise<Stuck[]> {
  let rows = await stuck(db);
  await until(async () => {
    rows = await stuck(db);
    return rows.length === count;
  }, `${count} rows to be stuck`);
  return rows;
}
