/** Brings the database to the schema that this version needs: applies `sql/*.sql` in order, each once. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { sql as kyselySql, type QueryExecutorProvider } from 'kysely';
import pRetry from 'p-retry';
import pg from 'pg';
import { isLockTimeout } from './errors.ts';

export interface Migration {
  /** File name without `.sql`. */
  readonly name: string;
  readonly sql: string;
  /** SHA-256 of the text, in hex. */
  readonly checksum: string;
}

/** A migration that was applied with another text, or one that this version does not know. */
export class SchemaMismatchError extends Error {
  override readonly name = 'SchemaMismatchError';
}

const DIRECTORY = new URL('../../sql/', import.meta.url);

/** What the first statement of all makes: the schema, and the list of what has been applied. */
const BOOTSTRAP = `CREATE SCHEMA IF NOT EXISTS afterdelete;
COMMENT ON SCHEMA afterdelete IS 'Files are deleted when, and only when, the rows that hold them are gone.';
CREATE TABLE IF NOT EXISTS afterdelete.migration (
  name       text PRIMARY KEY,
  checksum   text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE afterdelete.migration IS 'Migrations applied to this schema, with the SHA-256 of their text.';
COMMENT ON COLUMN afterdelete.migration.name IS 'File name in sql/, without .sql.';
COMMENT ON COLUMN afterdelete.migration.checksum IS 'SHA-256 of its text, in hex.';
COMMENT ON COLUMN afterdelete.migration.applied_at IS 'When it was applied.';
`;

/** Two int4 keys of the advisory lock under which migrations are applied. */
const LOCK = "1634104420, hashtext('afterdelete.migrate')";

/** The migrations that come with this version, in order. */
export function bundledMigrations(directory: URL = DIRECTORY): Migration[] {
  return readdirSync(directory)
    .filter(file => file.endsWith('.sql'))
    .sort()
    .map(file => {
      const sql = readFileSync(new URL(file, directory), 'utf8');
      return {
        name: file.slice(0, -'.sql'.length),
        sql,
        checksum: createHash('sha256').update(sql).digest('hex'),
      };
    });
}

/** All migrations as one script that psql or another migration tool can run; it records what it applies. */
export function migrationScript(migrations: readonly Migration[] = bundledMigrations()): string {
  const steps = migrations.map(m => `-- ${m.name}\n\n${m.sql.trimEnd()}\n\n${recordSql(m)};\n`);
  return `BEGIN;\n\n${BOOTSTRAP}\n${steps.join('\n')}\nCOMMIT;\n`;
}

function recordSql(migration: Migration): string {
  const quote = (text: string) => `'${text.replaceAll("'", "''")}'`;
  return `INSERT INTO afterdelete.migration (name, checksum) VALUES (${quote(migration.name)}, ${quote(migration.checksum)})`;
}

export interface MigrateOptions {
  /** Default: those that come with this version. */
  readonly migrations?: readonly Migration[];
  /** How long a statement may wait for a lock before all is rolled back and tried again, in ms. */
  readonly lockTimeout?: number;
  /** How often it is tried again. */
  readonly retries?: number;
  readonly onRetry?: (error: Error) => void;
}

/**
 * Applies what is missing, all of it in one transaction, and returns the names of what it applied.
 *
 * Safe when several processes do it at once. It waits for no lock longer than `lockTimeout`, because whatever waits for
 * a strong lock makes everybody else wait behind it; it gives way and tries again instead.
 * @throws SchemaMismatchError when an applied migration has another text here, or is unknown here.
 */
export async function migrate(url: string, options: MigrateOptions = {}): Promise<string[]> {
  const { migrations = bundledMigrations(), lockTimeout = 2000, retries = 30 } = options;
  return await pRetry(() => migrateOnce(url, migrations, lockTimeout), {
    retries,
    minTimeout: 100,
    maxTimeout: 2000,
    randomize: true,
    shouldRetry: ({ error }) => isLockTimeout(error),
    onFailedAttempt: ({ error }) => {
      if (isLockTimeout(error)) options.onRetry?.(error);
    },
  });
}

async function migrateOnce(
  url: string,
  migrations: readonly Migration[],
  lockTimeout: number,
): Promise<string[]> {
  const client = new pg.Client({
    connectionString: url,
    application_name: `afterdelete migrate ${hostname()}`,
  });
  // Without a listener an error between two queries would end the process; the next query reports it.
  client.on('error', () => {});
  await client.connect();
  try {
    await client.query(
      `BEGIN; SET LOCAL lock_timeout = ${lockTimeout}; SELECT pg_advisory_xact_lock(${LOCK})`,
    );
    const run: Run = async text => (await client.query(text)).rows;
    if (!(await hasMigrationTable(run))) await client.query(BOOTSTRAP);
    const missing = missingMigrations(migrations, await appliedMigrations(run));
    for (const migration of missing) {
      await client.query(migration.sql);
      await client.query(recordSql(migration));
    }
    await client.query('COMMIT');
    return missing.map(m => m.name);
  } finally {
    await client.end().catch(() => {});
  }
}

/** Runs a statement and returns its rows. */
type Run = (text: string) => Promise<unknown[]>;

async function appliedMigrations(run: Run): Promise<Map<string, string>> {
  const rows = (await run('SELECT name, checksum FROM afterdelete.migration')) as {
    name: string;
    checksum: string;
  }[];
  return new Map(rows.map(row => [row.name, row.checksum]));
}

async function hasMigrationTable(run: Run): Promise<boolean> {
  const [row] = await run("SELECT to_regclass('afterdelete.migration') IS NOT NULL AS yes");
  return (row as { yes: boolean }).yes;
}

function missingMigrations(
  migrations: readonly Migration[],
  applied: ReadonlyMap<string, string>,
): Migration[] {
  for (const name of applied.keys()) {
    if (!migrations.some(m => m.name === name)) {
      throw new SchemaMismatchError(
        `the database has the migration ${name}, which this version of afterdelete does not know: run the version that applied it, or a newer one`,
      );
    }
  }
  return migrations.filter(migration => {
    const checksum = applied.get(migration.name);
    if (checksum !== undefined && checksum !== migration.checksum) {
      throw new SchemaMismatchError(
        `the migration ${migration.name} was applied with another text (SHA-256 ${checksum}) than stands in sql/${migration.name}.sql (${migration.checksum}): a released migration is never edited; put the old text back, and write a new migration`,
      );
    }
    return checksum === undefined;
  });
}

/**
 * Makes sure that the database has exactly the schema of this version; never changes it.
 * @throws SchemaMismatchError which names `afterdelete migrate` when something is missing.
 */
export async function assertSchema(
  db: QueryExecutorProvider,
  migrations: readonly Migration[] = bundledMigrations(),
): Promise<void> {
  const run: Run = async text => (await kyselySql.raw(text).execute(db)).rows;
  const applied = (await hasMigrationTable(run)) ? await appliedMigrations(run) : new Map<string, string>();
  const missing = missingMigrations(migrations, applied);
  if (missing.length > 0) {
    const names = missing.map(m => m.name).join(', ');
    const what =
      applied.size === 0 ? 'no afterdelete schema' : `an older afterdelete schema (${names} missing)`;
    throw new SchemaMismatchError(`the database has ${what}: run \`afterdelete migrate\` first`);
  }
}
