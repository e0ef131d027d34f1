/** The pooled way to the database: claims, settles, heartbeats and reads. It may go through a transaction pooler. */
import { Kysely, PostgresDialect, type PostgresPool } from 'kysely';
import pg from 'pg';
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
  const pool = new pg.Pool({
    connectionString: url,
    max: options.max ?? 5,
    application_name: options.applicationName ?? 'afterdelete',
    idleTimeoutMillis: 10_000,
    connectionTimeoutMillis: 5_000,
    query_timeout: options.queryTimeout ?? 15_000,
    keepAlive: true,
    keepAliveInitialDelayMillis: 10_000,
  });
  pool.on('error', error => options.onError?.(error));
  return new Kysely<Schema>({ dialect: new PostgresDialect({ pool: discardBroken(pool) }) });
}

/**
 * Hands out connections that are not used again after a query failed without an answer of the server (a timeout, a reset
 * connection). pg would queue the next query behind the one that hangs.
 */
function discardBroken(pool: pg.Pool): PostgresPool {
  return {
    options: pool.options,
    end: () => pool.end(),
    connect: async () => {
      const client = await pool.connect();
      let broken: Error | undefined;
      // The pool listens on idle connections only: an error between two queries of this one would end the process.
      const onError = (error: Error) => {
        broken = error;
      };
      client.on('error', onError);
      const query = async (text: string, values: readonly unknown[]) => {
        try {
          return await client.query(text, [...values]);
        } catch (error) {
          if (!(error instanceof pg.DatabaseError)) broken = error as Error;
          throw error;
        }
      };
      const release = () => {
        client.release(broken);
        // A connection that is thrown away may report its end more than once, and nobody else listens.
        if (broken === undefined) client.off('error', onError);
      };
      return { query, release } as unknown as Awaited<ReturnType<PostgresPool['connect']>>;
    },
  };
}
