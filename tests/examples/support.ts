/** What the tests of the examples share: a database with an application's tables, and what to look at afterwards. */
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { onTestFinished } from 'vitest';
import { createDatabase, type TestDatabase } from '../support/database.ts';

const EXAMPLES = fileURLToPath(new URL('../../examples/', import.meta.url));

/** A file of the examples, e.g. `mistudio/main.ts`. */
export const example = (name: string) => join(EXAMPLES, name);

/** A database with the schema `afterdelete` and an application's own tables. */
export async function createApplicationDatabase(application: string): Promise<TestDatabase> {
  const db = await createDatabase();
  await db.sql(readFileSync(example(`${application}/schema.sql`), 'utf8'));
  return db;
}

/** A pool that ends with the test. */
export function createPool({ url }: TestDatabase): pg.Pool {
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
