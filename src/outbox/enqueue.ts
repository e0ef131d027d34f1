/** The writing side, for services in TypeScript: cleanups are written in the caller's transaction. */
import { type QueryExecutorProvider, sql } from 'kysely';
import { MAX_PRUNE_PARENTS, parseTarget } from '../target.ts';

/** A `pg` client, or anything like it: runs a statement with numbered parameters and returns its rows. */
export interface Queryable {
  query(text: string, values: unknown[]): Promise<unknown>;
}

/** What cleanups are written with: a Kysely transaction, a `pg` client, or any object with a `query` method. */
export type Writer = QueryExecutorProvider | Queryable;

export interface EnqueueOptions {
  /** Wait so long before deleting: milliseconds, or an interval as PostgreSQL writes it, e.g. `'2 hours'`. Default: 0. */
  readonly delay?: number | string;
  /** Levels of parent directories (0 to 32) to remove if they are empty afterwards; `file:` targets only. Default: 0. */
  readonly pruneParents?: number;
  /** Free text: why. It stands in the audit trail. */
  readonly source?: string;
}

// The ids are drawn in the order of the rows, and returned in that order.
const ENQUEUE = `INSERT INTO afterdelete.pending_file_cleanup (target, run_at, prune_parents, source)
SELECT t.target, now() + $2::interval, $3::smallint, $4::text
  FROM unnest($1::text[]) WITH ORDINALITY AS t (target, n) ORDER BY t.n
RETURNING id::text AS id`;

/**
 * Writes one cleanup for each target in the caller's transaction: they are carried out after its COMMIT, and never if
 * it rolls back. Returns the ids, in order.
 * @throws InvalidTargetError before anything is written.
 */
export async function enqueue(tx: Writer, target: string, options?: EnqueueOptions): Promise<string>;
export async function enqueue(
  tx: Writer,
  target: readonly string[],
  options?: EnqueueOptions,
): Promise<string[]>;
export async function enqueue(
  tx: Writer,
  target: string | readonly string[],
  options: EnqueueOptions = {},
): Promise<string | string[]> {
  const targets = typeof target === 'string' ? [target] : [...target];
  for (const text of targets) parseTarget(text);
  const { pruneParents = 0, source = null } = options;
  if (!Number.isInteger(pruneParents) || pruneParents < 0 || pruneParents > MAX_PRUNE_PARENTS) {
    throw new RangeError(
      `pruneParents: expected a whole number from 0 to ${MAX_PRUNE_PARENTS}, got ${pruneParents}`,
    );
  }
  if (targets.length === 0) return [];
  const rows = await run(tx, ENQUEUE, [targets, interval(options.delay ?? 0), pruneParents, source]);
  const ids = rows.map(row => (row as { id: string }).id);
  return typeof target === 'string' ? (ids[0] as string) : ids;
}

/**
 * Ends a reservation (a cleanup that was enqueued with a delay before an upload) in the caller's transaction: committed,
 * the upload stays; rolled back, it is cleaned up when the delay is over.
 * @throws when the cleanup is no longer pending: it fell due, and the upload is gone or about to go.
 */
export async function confirm(tx: Writer, id: string | number | bigint): Promise<void> {
  await run(tx, 'SELECT afterdelete.confirm($1::bigint)', [String(id)]);
}

function interval(delay: number | string): string {
  if (typeof delay === 'string') return delay;
  if (!Number.isFinite(delay) || delay < 0) {
    throw new RangeError(
      `delay: expected milliseconds (0 or more) or an interval such as '2 hours', got ${delay}`,
    );
  }
  return `${delay} milliseconds`;
}

async function run(tx: Writer, text: string, values: unknown[]): Promise<unknown[]> {
  if ('getExecutor' in tx) {
    // Kysely numbers its parameters itself, in order of appearance.
    const parts = text.split(/\$\d+/);
    const order = [...text.matchAll(/\$(\d+)/g)].map(match => values[Number(match[1]) - 1]);
    return (await sql(parts as unknown as TemplateStringsArray, ...order).execute(tx)).rows;
  }
  const result = await tx.query(text, values);
  const rows = Array.isArray(result) ? result : (result as { rows?: unknown } | undefined)?.rows;
  if (!Array.isArray(rows)) {
    throw new TypeError('enqueue: expected a query method that returns { rows } or an array of rows');
  }
  return rows;
}
