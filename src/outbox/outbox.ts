/** What a worker does with the outbox: register, claim, settle, keep its lease. One round trip a method. */
import { sql } from 'kysely';
import type { Database } from './database.ts';
import {
  byAge,
  bytes,
  type ClaimedRow,
  claimedRows,
  claims,
  ids,
  objects,
  plain,
  type RawClaim,
  type RawSuspect,
  type Settled,
  type Settlement,
  storable,
  suspectRow,
  texts,
} from './rows.ts';
import type { Backlog } from './schema.ts';

/** What a claim brought. */
export interface Claimed {
  readonly rows: ClaimedRow[];
  /** Stores that were not looked at, because they are paused for all workers. */
  readonly paused: ReadonlySet<string>;
}

/** What a heartbeat tells. */
export interface Beat {
  /** Not alive: the worker has been taken for vanished, and its rows are others'. */
  readonly alive: boolean;
  /** Rows wait that must run alone. */
  readonly suspects: boolean;
  /** In microseconds since 1970; time of the database. */
  readonly moment: number;
  /** `afterdelete.server()`: with another number it is another server, or the same one started anew. */
  readonly server: number;
}

/** What `afterdelete.mark()` tells: see `src/reconciler/floors.ts`. */
export interface Mark {
  /** In microseconds since 1970; time of the database. */
  readonly moment: number;
  /** Larger than the id of any transaction that had one before the moment. */
  readonly own: bigint;
  /** All transactions with a smaller id have ended. */
  readonly endedBelow: bigint;
  /** `afterdelete.server()`. */
  readonly server: number;
}

export interface WorkerDescription {
  readonly name: string;
  readonly version: string;
  readonly stores: readonly string[];
  readonly roots: readonly string[];
  /** In ms. */
  readonly lease: number;
  /** How long done rows are kept, in ms; 0: not at all. */
  readonly history: number;
}

/** Why a worker leaves a store alone. */
export interface WorkerPause {
  readonly store: string;
  readonly by: 'breaker' | 'root';
  readonly reason: string;
}

/** A store that an operator or a fuse has paused for all workers. */
export interface StorePause {
  readonly store: string;
  readonly by: 'operator' | 'fuse';
  readonly reason: string | null;
}

const milliseconds = (ms: number) => `${ms} milliseconds`;

export class Outbox {
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
  }

  /** Gives a new worker its row and lease; returns its id. */
  async register(worker: WorkerDescription): Promise<string> {
    const { rows } = await sql<{ id: string }>`
      SELECT afterdelete.register(${worker.name}, ${worker.version}, ${worker.stores}::text[], ${worker.roots}::text[],
        ${milliseconds(worker.lease)}::interval, ${milliseconds(worker.history)}::interval) AS id`.execute(
      this.#db,
    );
    return (rows[0] as { id: string }).id;
  }

  /** Renews the lease. */
  async heartbeat(worker: string, lease: number): Promise<Beat> {
    const { rows } = await sql<Beat>`
      SELECT alive, suspects, (1000000 * extract(epoch FROM clock_timestamp()))::float8 AS moment,
             afterdelete.server()::int AS server
        FROM afterdelete.heartbeat(${worker}, ${milliseconds(lease)}::interval)`.execute(this.#db);
    return rows[0] as Beat;
  }

  /** Hands back what the worker still holds and removes its row; returns how many rows it handed back. */
  async deregister(worker: string): Promise<number> {
    const { rows } = await sql<{ n: number }>`SELECT afterdelete.deregister(${worker}) AS n`.execute(
      this.#db,
    );
    return (rows[0] as { n: number }).n;
  }

  /** Moves the rows of vanished workers back to pending. */
  async reap(): Promise<{ workers: number; moved: number; died: number }> {
    const { rows } = await sql<{
      workers: number;
      moved: number;
      died: number;
    }>`SELECT workers, moved, died FROM afterdelete.reap()`.execute(this.#db);
    return rows[0] as { workers: number; moved: number; died: number };
  }

  /**
   * Claims due rows, at most `room` of each store, oldest first within a store, but none inside the roots of `others`; in
   * each store those that were due from its floor on, in microseconds since 1970.
   * @throws an error for which `isLeaseLost` is true when the worker has been taken for vanished.
   */
  async claim(
    worker: string,
    rooms: ReadonlyMap<string, number>,
    others: readonly string[] = [],
    floors: ReadonlyMap<string, number> = new Map(),
  ): Promise<Claimed> {
    const stores = [...rooms.keys()];
    const { rows } = await sql<RawClaim & { paused: string[] | null }>`
      SELECT claim, claimed_at, ids::text, targets, due_at::text, uncommon::text, first_due_at::text, prune_parents::text, attempt::text,
             lost::text, objects_deleted::text, bytes_freed::text, paused
        FROM afterdelete.claim(${worker}, ${stores}::text[], ${[...rooms.values()]}::int[], ${others}::text[],
          ${stores.map(store => floors.get(store) ?? null)}::bigint[])`.execute(this.#db);
    const raw = rows[0] as (typeof rows)[0];
    return { rows: claimedRows(raw).sort(byAge), paused: new Set(raw.paused) };
  }

  /** Sets a mark: what of the past is settled once all transactions of before have ended. */
  async mark(): Promise<Mark> {
    const { rows } = await sql<{ moment: number; own: string; ended_below: string; server: number }>`
      SELECT (1000000 * extract(epoch FROM m.moment))::float8 AS moment, m.own::text, m.ended_below::text,
             afterdelete.server()::int AS server
        FROM afterdelete.mark() m`.execute(this.#db);
    const { ended_below, ...mark } = rows[0] as (typeof rows)[0];
    return { ...mark, own: BigInt(mark.own), endedBelow: BigInt(ended_below) };
  }

  /** Claims one row that seems to kill its workers, for a worker that has nothing else in hand. */
  async claimSuspect(worker: string, stores: readonly string[]): Promise<ClaimedRow | undefined> {
    const { rows } = await sql<RawSuspect>`
      SELECT c.id, c.claim, c.target, afterdelete.microseconds(c.claimed_at) AS claimed_at,
             afterdelete.microseconds(c.first_due_at) AS first_due_at, c.prune_parents, c.attempt, c.lost, c.objects_deleted, c.bytes_freed
        FROM afterdelete.claim_suspect(${worker}, ${stores}::text[]) c`.execute(this.#db);
    return rows.map(suspectRow)[0];
  }

  /**
   * Hands back rows that stand as this worker's and that it does not have in hand, e.g. because the answer to their claim
   * never came. Returns how many.
   */
  async handBackStrays(worker: string, inHand: readonly Pick<ClaimedRow, 'id' | 'claim'>[]): Promise<number> {
    const { rows } = await sql<{ n: number }>`
      SELECT (count(*) - cardinality(afterdelete.settle_back(array_agg(r.id), array_agg(r.claim), array_agg('handed_back'::text),
               array_agg(0::double precision), array_agg(NULL::text), array_agg(r.objects_deleted), array_agg(r.bytes_freed))))::int AS n
        FROM afterdelete.running_file_cleanup r
       WHERE r.worker = ${worker}
         AND (r.id, r.claim) NOT IN (SELECT * FROM unnest(${plain(inHand.map(row => row.id))}::bigint[], ${plain(inHand.map(row => row.claim))}::bigint[]))
      HAVING count(*) > 0`.execute(this.#db);
    return rows[0]?.n ?? 0;
  }

  /** Milliseconds until the next row falls due that is not due now; undefined when none waits. */
  async nextDue(stores: readonly string[]): Promise<number | undefined> {
    const { rows } = await sql<{ ms: number | null }>`
      SELECT afterdelete.next_due(${stores}::text[]) AS ms`.execute(this.#db);
    return rows[0]?.ms ?? undefined;
  }

  /** Stores how far rows in hand have come. */
  async progress(rows: readonly Settled[]): Promise<void> {
    if (rows.length === 0) return;
    await sql`SELECT afterdelete.progress(${ids(rows)}::bigint[], ${claims(rows)}::bigint[],
      ${objects(rows)}::bigint[], ${bytes(rows)}::bigint[])`.execute(this.#db);
  }

  /** Ends rows and writes their audit trail. Returns the ids that the worker did not hold any more. */
  async settleDone(
    worker: string,
    keep: boolean,
    rows: readonly (Settlement & { kind: 'done' })[],
  ): Promise<string[]> {
    return await this.#settled(sql<Fenced>`
      SELECT afterdelete.settle_done(${worker}, ${keep}, ${ids(rows)}::bigint[], ${claims(rows)}::bigint[],
        ${plain(rows.map(r => r.outcome))}::text[], ${objects(rows)}::bigint[], ${bytes(rows)}::bigint[],
        ${texts(rows.map(r => r.note))}::text[]) AS fenced`);
  }

  /** Puts rows back to pending. Returns the ids that the worker did not hold any more. */
  async settleBack(rows: readonly (Settlement & { kind: 'back' })[]): Promise<string[]> {
    return await this.#settled(sql<Fenced>`
      SELECT afterdelete.settle_back(${ids(rows)}::bigint[], ${claims(rows)}::bigint[], ${plain(rows.map(r => r.reason))}::text[],
        ${rows.map(r => r.delay)}::double precision[], ${texts(rows.map(r => r.error))}::text[], ${objects(rows)}::bigint[],
        ${bytes(rows)}::bigint[]) AS fenced`);
  }

  /** Dead-letters rows. Returns the ids that the worker did not hold any more. */
  async settleDead(worker: string, rows: readonly (Settlement & { kind: 'dead' })[]): Promise<string[]> {
    return await this.#settled(sql<Fenced>`
      SELECT afterdelete.settle_dead(${worker}, ${ids(rows)}::bigint[], ${claims(rows)}::bigint[],
        ${texts(rows.map(r => r.error))}::text[], ${objects(rows)}::bigint[], ${bytes(rows)}::bigint[]) AS fenced`);
  }

  async #settled(query: ReturnType<typeof sql<Fenced>>): Promise<string[]> {
    return ((await query.execute(this.#db)).rows[0] as Fenced).fenced;
  }

  /** Puts on record which stores this worker leaves alone, in place of what stood there. */
  async setPauses(worker: string, pauses: readonly WorkerPause[]): Promise<void> {
    await sql`
      WITH wanted AS (
        SELECT * FROM unnest(${pauses.map(p => p.store)}::text[], ${pauses.map(p => p.by)}::text[], ${pauses.map(p => storable(p.reason))}::text[])
          AS p (store, paused_by, reason)
      ), ended AS (
        DELETE FROM afterdelete.worker_pause wp
         WHERE wp.worker = ${worker} AND NOT EXISTS (SELECT FROM wanted w WHERE w.store = wp.store)
      )
      INSERT INTO afterdelete.worker_pause AS wp (worker, store, paused_by, reason)
      SELECT w.id, p.store, p.paused_by, p.reason FROM wanted p, afterdelete.worker w WHERE w.id = ${worker}
      ON CONFLICT (worker, store) DO UPDATE SET paused_by = excluded.paused_by, reason = excluded.reason,
        paused_at = CASE WHEN wp.paused_by = excluded.paused_by THEN wp.paused_at ELSE excluded.paused_at END`.execute(
      this.#db,
    );
  }

  /** The stores among these that an operator or a fuse has paused. */
  async storePauses(stores: readonly string[]): Promise<StorePause[]> {
    return await this.#db
      .selectFrom('afterdelete.store_pause')
      .select(['store', 'paused_by as by', 'reason'])
      .where('store', 'in', [...stores])
      .execute();
  }

  /** The roots of all live workers. */
  async liveRoots(): Promise<string[]> {
    const { rows } = await sql<{ root: string }>`
      SELECT DISTINCT root FROM afterdelete.worker w CROSS JOIN unnest(w.roots) AS root
       WHERE afterdelete.lease_end(w) > clock_timestamp() ORDER BY root`.execute(this.#db);
    return rows.map(row => row.root);
  }

  /** The recorded identity of a root, or undefined when it has never been seen. */
  async rootIdentity(root: string): Promise<string | undefined> {
    const row = await this.#db
      .selectFrom('afterdelete.file_root')
      .select('identity')
      .where('root', '=', root)
      .executeTakeFirst();
    return row?.identity;
  }

  /** Records the identity of a root that has none yet, and returns the recorded one: the first worker wins. */
  async recordRoot(root: string, identity: string, by: string): Promise<string> {
    await this.#db
      .insertInto('afterdelete.file_root')
      .values({ root, identity, recorded_by: by })
      .onConflict(conflict => conflict.column('root').doNothing())
      .execute();
    return (await this.rootIdentity(root)) as string;
  }

  /** Records another identity for a root: a person says that this is the disk now. */
  async adoptRoot(root: string, identity: string, by: string): Promise<void> {
    const record = { identity, recorded_by: by, recorded_at: sql<Date>`clock_timestamp()` };
    await this.#db
      .insertInto('afterdelete.file_root')
      .values({ root, ...record })
      .onConflict(conflict => conflict.column('root').doUpdateSet(record))
      .execute();
  }

  /** Makes the audit trail's next partitions and drops old ones. */
  async maintainHistory(): Promise<{ made: number; dropped: number }> {
    const { rows } = await sql<{ made: number; dropped: number }>`
      SELECT made, dropped FROM afterdelete.maintain_history()`.execute(this.#db);
    return rows[0] as { made: number; dropped: number };
  }

  /** The view `afterdelete.backlog`. */
  async backlog(): Promise<Backlog[]> {
    return await this.#db.selectFrom('afterdelete.backlog').selectAll().orderBy('store').execute();
  }

  /** Notifies all daemons, as `afterdelete.wake()` does. */
  async notify(payload: string): Promise<void> {
    await sql`SELECT pg_notify('afterdelete', ${payload})`.execute(this.#db);
  }

  /** Answers when the database does. */
  async ping(): Promise<void> {
    await sql`SELECT 1`.execute(this.#db);
  }
}

interface Fenced {
  readonly fenced: string[];
}
