/** Looks at what is committed, and holds sessions where they are told to pause. */
import pg from 'pg';
import { STORES } from './steps.ts';

/** A cleanup as it stands; times in microseconds since 1970. */
export interface Row {
  readonly id: string;
  readonly state: 'pending' | 'running' | 'done' | 'dead';
  readonly store: string;
  readonly claim: string | null;
  readonly worker: string | null;
  readonly attempt: number;
  readonly lost: number | null;
  readonly objects: number | null;
  readonly due: number | null;
  readonly is_due: boolean;
  readonly put_back: string | null;
  readonly touched: boolean;
}

/** One look at all tables. */
export interface Snapshot {
  readonly rows: ReadonlyMap<string, Row>;
  /** Ids that stood in more than one place. */
  readonly twice: readonly string[];
  /** Whether the lease of each worker still runs. */
  readonly workers: ReadonlyMap<string, boolean>;
  readonly paused: ReadonlySet<string>;
}

/** Where a statement can be made to wait. */
export type Point =
  | 'before claiming'
  | 'before settling'
  | 'before the workers'
  | 'after the workers'
  | 'before a row of pending';

/** First key of the locks that sessions wait for; the second is the number of the session's lane. */
const PAUSES = 424_242;

/** A BEFORE trigger of a statement fires when the statement has its snapshot and has looked at nothing. */
const PAUSE_TRIGGERS = `
  CREATE SCHEMA protocol;
  CREATE FUNCTION protocol.pause() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    IF current_setting('protocol.pause', true) = TG_ARGV[0] THEN
      PERFORM set_config('protocol.pause', '', true);
      PERFORM pg_advisory_lock_shared(${PAUSES}, current_setting('protocol.lane')::integer);
      PERFORM pg_advisory_unlock_shared(${PAUSES}, current_setting('protocol.lane')::integer);
    END IF;
    RETURN NEW;
  END $$;
  CREATE TRIGGER pause_1 BEFORE DELETE ON afterdelete.pending_file_cleanup FOR EACH STATEMENT EXECUTE FUNCTION protocol.pause('before claiming');
  CREATE TRIGGER pause_2 BEFORE DELETE ON afterdelete.running_file_cleanup FOR EACH STATEMENT EXECUTE FUNCTION protocol.pause('before settling');
  CREATE TRIGGER pause_3 BEFORE DELETE ON afterdelete.worker FOR EACH STATEMENT EXECUTE FUNCTION protocol.pause('before the workers');
  CREATE TRIGGER pause_4 AFTER DELETE ON afterdelete.worker FOR EACH STATEMENT EXECUTE FUNCTION protocol.pause('after the workers');
  CREATE TRIGGER pause_5 BEFORE INSERT ON afterdelete.pending_file_cleanup FOR EACH ROW EXECUTE FUNCTION protocol.pause('before a row of pending')`;

const ALL = `
  SELECT id::text, 'pending' AS state, store, NULL AS claim, NULL AS worker, attempt, lost, objects_deleted::float8 AS objects,
         (1000000 * extract(epoch FROM due_at))::float8 AS due, due_at <= clock_timestamp() AS is_due, put_back,
         first_due_at IS NOT NULL OR last_error IS NOT NULL AS touched FROM afterdelete.pending_file_cleanup
  UNION ALL SELECT id::text, 'running', store, claim::text, worker::text, attempt, lost, objects_deleted, NULL, false, NULL, true FROM afterdelete.running_file_cleanup
  UNION ALL SELECT id::text, 'done', outcome, NULL, worker, attempt, NULL, objects_deleted, NULL, false, NULL, true FROM afterdelete.done_file_cleanup
  UNION ALL SELECT id::text, 'dead', store, NULL, worker, attempt, lost, objects_deleted, NULL, false, NULL, true FROM afterdelete.dead_file_cleanup
  UNION ALL SELECT id::text, 'worker', NULL, NULL, NULL, 0, NULL, NULL, NULL, lease_until > clock_timestamp(), NULL, false FROM afterdelete.worker
  UNION ALL SELECT NULL, 'pause', store, NULL, NULL, 0, NULL, NULL, NULL, false, NULL, false FROM afterdelete.store_pause`;

export class Observer {
  readonly #client: pg.Client;

  constructor(url: string) {
    this.#client = new pg.Client({ connectionString: url });
    this.#client.on('error', () => {});
  }

  async open(): Promise<void> {
    await this.#client.connect();
    await this.#client.query(PAUSE_TRIGGERS);
  }

  async close(): Promise<void> {
    await this.#client.end();
  }

  async sql<T extends pg.QueryResultRow>(text: string, values: unknown[] = []): Promise<T[]> {
    return (await this.#client.query<T>(text, values)).rows;
  }

  async empty(): Promise<void> {
    await this.#client.query(
      `DELETE FROM afterdelete.pending_file_cleanup; DELETE FROM afterdelete.running_file_cleanup; DELETE FROM afterdelete.done_file_cleanup;
       DELETE FROM afterdelete.dead_file_cleanup; DELETE FROM afterdelete.worker; DELETE FROM afterdelete.store_pause`,
    );
  }

  async snapshot(): Promise<Snapshot> {
    const { rows } = await this.#client.query<Omit<Row, 'state'> & { state: string }>({
      name: 'all',
      text: ALL,
    });
    const found = new Map<string, Row>();
    const twice: string[] = [];
    const workers = new Map<string, boolean>();
    const paused = new Set<string>();
    for (const row of rows) {
      if (row.state === 'worker') workers.set(row.id, row.is_due);
      else if (row.state === 'pause') paused.add(row.store);
      else {
        if (found.has(row.id)) twice.push(row.id);
        found.set(row.id, row as Row);
      }
    }
    return { rows: found, twice, workers, paused };
  }

  /** Which of these sessions wait for a lock. */
  async waiting(pids: readonly number[]): Promise<ReadonlySet<number>> {
    const { rows } = await this.#client.query<{ pid: number }>({
      name: 'waiting',
      text: 'SELECT pid FROM unnest($1::integer[]) AS pid WHERE cardinality(pg_blocking_pids(pid)) > 0',
      values: [pids],
    });
    return new Set(rows.map(row => row.pid));
  }

  /** The session of a lane will wait where it is told to pause. */
  async hold(lane: number): Promise<void> {
    await this.sql('SELECT pg_advisory_lock($1, $2)', [PAUSES, lane]);
  }

  async release(lane: number): Promise<void> {
    await this.sql('SELECT pg_advisory_unlock($1, $2)', [PAUSES, lane]);
  }

  /** Lets a lease end, unless somebody is just changing its worker. */
  async expire(worker: string): Promise<void> {
    await this.sql(
      `UPDATE afterdelete.worker SET lease_until = clock_timestamp() - interval '1 second'
        WHERE id = (SELECT id FROM afterdelete.worker WHERE id = $1 FOR NO KEY UPDATE SKIP LOCKED)`,
      [worker],
    );
  }

  async pause(store: number, paused: boolean): Promise<void> {
    await this.sql(`SELECT afterdelete.${paused ? 'pause' : 'resume'}($1)`, [STORES[store]]);
  }
}
