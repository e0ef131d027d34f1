/** What people ask the outbox and tell it: how much waits, what is stuck and why; retry, cancel, discard, pause, resume. */
import { sql } from 'kysely';
import type { Database } from './database.ts';
import { isWrongState } from './errors.ts';
import type { DoneOutcome, PendingFileCleanup, Stuck } from './schema.ts';

/** A row of the view `afterdelete.backlog`, with its counts as numbers. */
export interface BacklogLine {
  readonly store: string;
  readonly pending: number;
  readonly due: number;
  readonly delayed: number;
  readonly retrying: number;
  readonly running: number;
  readonly dead: number;
  readonly oldest_due_at: Date | null;
  readonly oldest_due_seconds: number | null;
  readonly paused: boolean;
  readonly served: boolean;
  readonly estimated: boolean;
}

/** A row of the view `afterdelete.stuck`. */
export interface StuckLine extends Stuck {
  /** Since it was first due, in s. */
  readonly age_seconds: number;
}

/** A store that is left alone: by all daemons, or by one. */
export interface PauseLine {
  readonly store: string;
  readonly by: 'operator' | 'fuse' | 'breaker' | 'root';
  readonly reason: string | null;
  readonly since: Date;
  /** Since then, in s; time of the database. */
  readonly since_seconds: number;
  /** The daemon that leaves it alone; null: all do. */
  readonly worker: string | null;
}

export interface WorkerLine {
  readonly name: string;
  readonly version: string;
  readonly stores: string[];
  readonly roots: string[];
  readonly started_at: Date;
  readonly heartbeat_at: Date;
  /** Since its last heartbeat, in s; time of the database. */
  readonly heartbeat_seconds: number;
  /** Whether it still has its lease. */
  readonly live: boolean;
}

/** A cleanup that has been found, in whatever state it is. */
export type Found = {
  readonly id: string;
  readonly target: string;
  readonly store: string;
  readonly attempt: number;
  /** When it got into this state; of a pending one, when it is due. Null: never. */
  readonly at: Date | null;
} & (
  | {
      readonly state: 'pending';
      /** In s from now; below 0: it is due. Null: never. */
      readonly dueIn: number | null;
      readonly putBack: PendingFileCleanup['put_back'];
      readonly pruneParents: number;
      readonly message: string | null;
    }
  | { readonly state: 'running'; readonly worker: string | null; readonly message: string | null }
  | { readonly state: 'dead'; readonly message: string }
  | { readonly state: 'done'; readonly outcome: DoneOutcome; readonly message: string | null }
);

/** A row of PENDING, seen as `Found`; `p` is the table. */
const PENDING = sql.raw(`p.id::text AS id, 'pending' AS state, p.target::text AS target, p.store, p.attempt,
  CASE WHEN isfinite(p.due_at) THEN p.due_at END AS at,
  CASE WHEN isfinite(p.due_at) THEN extract(epoch FROM p.due_at - statement_timestamp())::double precision END AS "dueIn",
  p.put_back AS "putBack", p.prune_parents::int AS "pruneParents", p.last_error AS message`);

/** How many dead rows one statement puts back: far fewer than it has time for. */
const RETRY_BATCH = 1_000;

export class Operators {
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
  }

  /** How much waits, by store. */
  async backlog(): Promise<BacklogLine[]> {
    const rows = await this.#db.selectFrom('afterdelete.backlog').selectAll().orderBy('store').execute();
    return rows.map(row => ({
      ...row,
      pending: Number(row.pending),
      due: Number(row.due),
      delayed: Number(row.delayed),
      retrying: Number(row.retrying),
      running: Number(row.running),
      dead: Number(row.dead),
    }));
  }

  /** Rows that a person should look at, the oldest first, and how many there are in all. */
  async stuck(limit: number): Promise<{ rows: StuckLine[]; total: number }> {
    const { rows } = await sql<StuckLine & { total: string }>`
      SELECT s.id::text AS id, s.state, s.reason, s.store, s.target, s.attempt,
             extract(epoch FROM s.age)::double precision AS age_seconds, s.next_attempt_at, s.worker, s.last_error, s.source, s.actor,
             count(*) OVER () AS total
        FROM afterdelete.stuck s ORDER BY s.age DESC, s.id LIMIT ${limit}`.execute(this.#db);
    return { rows: rows.map(({ total: _, ...row }) => row), total: Number(rows[0]?.total ?? 0) };
  }

  /** Every pause, those of all daemons first. */
  async pauses(): Promise<PauseLine[]> {
    const { rows } = await sql<PauseLine>`
      SELECT sp.store, sp.paused_by AS by, sp.reason, sp.paused_at AS since,
             extract(epoch FROM statement_timestamp() - sp.paused_at)::double precision AS since_seconds, NULL::text AS worker
        FROM afterdelete.store_pause sp
      UNION ALL
      SELECT wp.store, wp.paused_by, wp.reason, wp.paused_at,
             extract(epoch FROM statement_timestamp() - wp.paused_at)::double precision, w.name
        FROM afterdelete.worker_pause wp JOIN afterdelete.worker w ON w.id = wp.worker
       ORDER BY worker NULLS FIRST, store`.execute(this.#db);
    return rows;
  }

  async workers(): Promise<WorkerLine[]> {
    const { rows } = await sql<WorkerLine>`
      SELECT w.name, w.version, w.stores, w.roots, w.started_at, w.heartbeat_at,
             extract(epoch FROM statement_timestamp() - w.heartbeat_at)::double precision AS heartbeat_seconds,
             afterdelete.lease_end(w) > statement_timestamp() AS live
        FROM afterdelete.worker w ORDER BY w.started_at, w.id`.execute(this.#db);
    return rows;
  }

  /** The cleanups with these ids, in whatever state they are; those that are nowhere are missing. */
  async find(ids: readonly string[]): Promise<Map<string, Found>> {
    const { rows } = await sql<Found>`
      SELECT ${PENDING}, NULL::text AS worker, NULL::text AS outcome
        FROM afterdelete.pending_file_cleanup p WHERE p.id = ANY (${ids}::bigint[])
      UNION ALL
      SELECT r.id::text, 'running', r.target, r.store, r.attempt, r.claimed_at, NULL, NULL, NULL, r.last_error, w.name, NULL
        FROM afterdelete.running_file_cleanup r LEFT JOIN afterdelete.worker w ON w.id = r.worker
       WHERE r.id = ANY (${ids}::bigint[])
      UNION ALL
      SELECT d.id::text, 'dead', d.target, d.store, d.attempt, d.died_at, NULL, NULL, NULL, d.last_error, NULL, NULL
        FROM afterdelete.dead_file_cleanup d WHERE d.id = ANY (${ids}::bigint[])
      UNION ALL
      SELECT e.id::text, 'done', e.target, split_part(e.target, '/', 1) || '//' || split_part(e.target, '/', 3), e.attempt,
             e.done_at, NULL, NULL, NULL, e.note, NULL, e.outcome
        FROM afterdelete.done_file_cleanup e WHERE e.id = ANY (${ids}::bigint[])`.execute(this.#db);
    return new Map(rows.map(row => [row.id, row]));
  }

  /** Pending cleanups of all stores, in the order in which they fall due. */
  async nextPending(limit: number): Promise<Found[]> {
    // Store by store, because that is how the index goes: sorting millions of rows for twenty would take seconds.
    const { rows } = await sql<Found>`
      WITH RECURSIVE waiting (store) AS (
        (SELECT p.store FROM afterdelete.pending_file_cleanup p ORDER BY p.store LIMIT 1)
        UNION ALL
        SELECT (SELECT p.store FROM afterdelete.pending_file_cleanup p WHERE p.store > w.store ORDER BY p.store LIMIT 1)
          FROM waiting w WHERE w.store IS NOT NULL
      )
      SELECT ${PENDING}
        FROM waiting w
       CROSS JOIN LATERAL (
         SELECT * FROM afterdelete.pending_file_cleanup q WHERE q.store = w.store ORDER BY q.due_at, q.id LIMIT ${limit}) p
       ORDER BY p.due_at, p.id LIMIT ${limit}`.execute(this.#db);
    return rows;
  }

  /** Makes a dead cleanup, or one that waits after an attempt, due now. False: it is neither, or no retry can help it. */
  async retry(id: string): Promise<boolean> {
    try {
      return await this.#yes(sql<{ yes: boolean }>`SELECT afterdelete.retry(${id}::bigint) AS yes`);
    } catch (error) {
      if (isWrongState(error)) return false;
      throw error;
    }
  }

  /** Makes all dead cleanups, or those of one store, due now, except those that no retry can help; returns how many. */
  async retryAll(store?: string): Promise<number> {
    let count = 0;
    // By id, so that one which dies again meanwhile is not tried for ever.
    for (let after: string | null = '0'; after !== null; ) {
      const { rows }: { rows: { n: string; last: string | null }[] } = await sql<{
        n: string;
        last: string | null;
      }>`
        WITH batch AS MATERIALIZED (
          SELECT d.id FROM afterdelete.dead_file_cleanup d
           WHERE d.id > ${after}::bigint AND NOT d.final AND (${store ?? null}::text IS NULL OR d.store = ${store ?? null}::text)
           ORDER BY d.id LIMIT ${RETRY_BATCH}
        ), tried AS MATERIALIZED (
          SELECT b.id, afterdelete.retry(b.id) AS yes FROM batch b
        )
        SELECT count(*) FILTER (WHERE t.yes) AS n, max(t.id)::text AS last FROM tried t`.execute(this.#db);
      count += Number(rows[0]?.n ?? 0);
      after = rows[0]?.last ?? null;
    }
    return count;
  }

  /** Gives up a pending cleanup; its target stays. False: it is not pending. */
  async cancel(id: string): Promise<boolean> {
    return await this.#yes(sql<{ yes: boolean }>`SELECT afterdelete.cancel(${id}::bigint) AS yes`);
  }

  /** Gives up a dead cleanup; what is left of its target stays. False: it is not dead. */
  async discard(id: string, note?: string): Promise<boolean> {
    return await this.#yes(
      sql<{ yes: boolean }>`SELECT afterdelete.discard(${id}::bigint, ${note ?? null}) AS yes`,
    );
  }

  /** Stops all daemons from claiming rows of a store. */
  async pause(store: string, reason?: string): Promise<void> {
    await sql`SELECT afterdelete.pause(${store}, ${reason ?? null})`.execute(this.#db);
  }

  /** Ends the pause of a store by an operator or a fuse. */
  async resume(store: string): Promise<void> {
    await sql`SELECT afterdelete.resume(${store})`.execute(this.#db);
  }

  /** The version of the server, as a number: 180004 is 18.4. */
  async serverVersion(): Promise<number> {
    const { rows } = await sql<{ n: number }>`
      SELECT current_setting('server_version_num')::int AS n`.execute(this.#db);
    return (rows[0] as { n: number }).n;
  }

  async #yes(query: ReturnType<typeof sql<{ yes: boolean }>>): Promise<boolean> {
    return (await query.execute(this.#db)).rows[0]?.yes === true;
  }
}
