/** What a fuse counts: cleanups of a root within a window, over all daemons. One round trip a method. */
import { sql } from 'kysely';
import type { Database } from './database.ts';
import type { StorePause } from './outbox.ts';

/** Most cleanups of one root within a window. */
export interface Limit {
  readonly cleanups: number;
  /** In ms. */
  readonly window: number;
}

/** How many cleanups of each root. */
export type Counts = ReadonlyMap<string, number>;

export interface Spent {
  /** How many may go. */
  readonly granted: Counts;
  /** When they were counted, in microseconds since 1970, by the database's clock: `giveBack` wants to know. */
  readonly moment: string;
  /** The pause of the store, if it has one by now; it has, when fewer may go than were asked for. */
  readonly pause: StorePause | undefined;
}

export class Spending {
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
  }

  /** Counts what is about to be deleted in roots of a store, as far as it may be; pauses the store for what may not. */
  async spend(store: string, asked: Counts, { cleanups, window }: Limit): Promise<Spent> {
    const roots = [...asked.keys()];
    const { rows } = await sql<RawSpent>`
      SELECT s.granted, (1000000 * extract(epoch FROM s.moment))::bigint AS moment, s.paused_by, s.reason
        FROM afterdelete.spend(${store}, ${roots}::text[], ${[...asked.values()]}::int[], ${cleanups}::bigint,
          ${`${window} milliseconds`}::interval) s`.execute(this.#db);
    const { granted, moment, paused_by: by, reason } = rows[0] as RawSpent;
    return {
      granted: new Map(roots.map((root, i) => [root, granted[i] ?? 0])),
      moment,
      pause: by === null ? undefined : { store, by, reason },
    };
  }

  /** What was counted at that moment and then not deleted counts no longer. */
  async giveBack(store: string, counts: Counts, moment: string): Promise<void> {
    await sql`SELECT afterdelete.give_back(${store}, ${[...counts.keys()]}::text[], ${[...counts.values()]}::int[],
      timestamptz '1970-01-01 00:00:00+00' + ${moment}::bigint * interval '1 microsecond')`.execute(this.#db);
  }
}

interface RawSpent {
  granted: number[];
  moment: string;
  paused_by: StorePause['by'] | null;
  reason: string | null;
}
