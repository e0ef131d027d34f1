/** The pooled way to the database: claims, settles, heartbeats and reads. It may go through a transaction pooler. */
import { Kysely, PostgresDialect, type PostgresPool } from 'kysely';
import pg from 'pg';
import { isReadOnly } from './errors.ts';
import type { Schema } from './schema.ts';

export type Database = Kysely<Schema>;

export interface DatabaseOptions {
  /** Shown in pg_stat_activity. */
  readonly applicationName?: string;
  /** Most connections; one suffices when idle. */
  readonly max?: number;
  /** After how long a query without an answer counts as failed and its connection as broken, in ms. */
  readonly queryTimeout?: number;
  /** Told of errors of idle connections, which the pool replaces by itself. */
  readonly onError?: (error: Error) => void;
}

/**
 * Opens a pool. Nothing is set on the session and nothing is prepared by name, so that it works through PgBouncer in
 * transaction mode.
 */
export function openDatabase(url: string, options: DatabaseOptions = {}): Database {
  const { queryTimeout = 15_000 } = options;
  const pool = new pg.Pool({
    connectionString: url,
    max: options.max ?? 5,
    application_name: options.applicationName ?? 'afterdelete',
    idleTimeoutMillis: 10_000,
    // Whoever cannot wait longer for a query cannot for its connection either: a heartbeat needs both within its lease.
    connectionTimeoutMillis: Math.min(5_000, queryTimeout),
    query_timeout: queryTimeout,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
  });
  pool.on('error', error => options.onError?.(error));
  // While it hands a connection out, nobody listens to that: a server that ends it at that very moment would end the process.
  // Whoever gets it finds out by the query.
  pool.on('connect', client => client.on('error', () => {}));
  return new Kysely<Schema>({ dialect: new PostgresDialect({ pool: wellMannered(pool) }) });
}

/** An idle daemon makes fewer queries than this in a second. */
const CALM = 20;
/** How long a query of an idle daemon waits for the connection that is there before it opens another, in ms. */
const PATIENCE = 200;

/**
 * Hands out connections, with two manners that pg's pool does not have.
 *
 * One whose query failed without an answer of the server (a timeout, a reset connection) is not used again: pg would
 * queue the next query behind the one that hangs. Nor is one that may not write: its session may stay read-only for ever,
 * and after a failover it leads to the old server for as long as it lives. And while there is little to do, a query waits for the connection that
 * is in use instead of opening another: a heartbeat beside a safety poll should not cost a connection.
 */
function wellMannered(pool: pg.Pool): PostgresPool {
  const waiting = new Set<() => void>();
  /** Connections handed out, or asked for: pg's pool counts one as idle until a tick after it was asked for. */
  let taken = 0;
  let second = 0;
  let queries = 0;

  /** Resolves at the next release, or after so many milliseconds. */
  const released = (ms: number) =>
    new Promise<void>(resolve => {
      const go = () => {
        clearTimeout(timer);
        waiting.delete(go);
        resolve();
      };
      const timer = setTimeout(go, ms);
      waiting.add(go);
    });
  const isCalm = () => {
    const now = Math.floor(performance.now() / 1000);
    if (now !== second) {
      second = now;
      queries = 0;
    }
    return ++queries < CALM;
  };

  return {
    options: pool.options,
    end: () => pool.end(),
    connect: async () => {
      if (isCalm()) {
        const end = performance.now() + PATIENCE;
        // Again, because whoever comes while this one wakes up may be quicker.
        while (taken > 0 && taken >= pool.totalCount && performance.now() < end) {
          await released(end - performance.now());
        }
      }
      taken += 1;
      const client = await pool.connect().catch((error: unknown) => {
        taken -= 1;
        throw error;
      });
      let broken: Error | undefined;
      // The pool listens on idle connections only: an error between two queries of this one.
      const onError = (error: Error) => {
        broken = error;
      };
      client.on('error', onError);
      const query = async (text: string, values: readonly unknown[]) => {
        try {
          return await client.query(text, [...values]);
        } catch (error) {
          if (!(error instanceof pg.DatabaseError) || isReadOnly(error)) broken = error as Error;
          throw error;
        }
      };
      const release = () => {
        taken -= 1;
        client.release(broken);
        client.off('error', onError);
        const [next] = waiting;
        next?.();
      };
      return { query, release } as unknown as Awaited<ReturnType<PostgresPool['connect']>>;
    },
  };
}
