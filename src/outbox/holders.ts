/** Who holds what: the guard's question, asked of the watched tables in one round trip. */
import { sql } from 'kysely';
import type { Database } from './database.ts';
import { isWrongIsolation } from './errors.ts';
import { quoted } from './rows.ts';

/** What the holders say of a target that may not go now. */
export interface Objection {
  /** `kept`: a live row holds exactly this. `blocked`: one holds something below it, a guard says no, or one cannot be asked. */
  readonly verdict: 'kept' | 'blocked';
  /** Who, in words. */
  readonly reason: string;
}

/** What is wrong with a watch or a guard. */
export interface HolderProblem {
  /** Which, in words. */
  readonly subject: string;
  /** Whether holds end uncaptured, or cleanups are blocked; else it is only slow. */
  readonly broken: boolean;
  readonly problem: string;
  readonly remedy: string;
}

export class Holders {
  readonly #db: Database;
  #ownTransaction = false;

  constructor(db: Database) {
    this.#db = db;
  }

  /**
   * What speaks against deleting these targets; undefined where nothing does. One for each, in order.
   * @param claim that has brought them, if one has.
   * @throws an error when another server than the one that is asked has given that claim.
   */
  async ask(targets: readonly string[], claim?: string): Promise<(Objection | undefined)[]> {
    const answers: (Objection | undefined)[] = targets.map(() => undefined);
    for (const { n, verdict, reason } of await this.#verdicts(targets, claim))
      answers[n - 1] = { verdict, reason };
    return answers;
  }

  /** Where the role's or database's default is another isolation, in a transaction of its own: a round trip or two more. */
  async #verdicts(
    targets: readonly string[],
    claim: string | undefined,
  ): Promise<(Objection & { n: number })[]> {
    const query = sql<Objection & { n: number }>`
      SELECT n, verdict, reason FROM afterdelete.verdicts(${quoted(targets)}::text[], ${claim ?? null}::bigint)`;
    if (!this.#ownTransaction) {
      try {
        return (await query.execute(this.#db)).rows;
      } catch (error) {
        if (!isWrongIsolation(error)) throw error;
        this.#ownTransaction = true;
      }
    }
    return await this.#db
      .transaction()
      .setIsolationLevel('read committed')
      .execute(async tx => (await query.execute(tx)).rows);
  }

  /** Gives partitions that were made later the triggers of their watches; returns what failed, if anything did. */
  async extendWatches(): Promise<string | undefined> {
    const { rows } = await sql<{ failures: string | null }>`
      SELECT afterdelete.extend_watches() AS failures`.execute(this.#db);
    return rows[0]?.failures ?? undefined;
  }

  /** How many watches are declared. */
  async watches(): Promise<number> {
    const { rows } = await sql<{ n: number }>`SELECT count(*)::int AS n FROM afterdelete.watched`.execute(
      this.#db,
    );
    return rows[0]?.n ?? 0;
  }

  /** What is wrong with the watches and guards, and what to do about it. */
  async problems(): Promise<HolderProblem[]> {
    const { rows } = await sql<HolderProblem>`
      SELECT concat_ws(' ', 'watch', w.relation, w.template) AS subject, w.broken, w.problem, w.remedy FROM afterdelete.watch_problems() w
      UNION ALL
      SELECT 'guard ' || g.name, true, 'it cannot be asked, and blocks everything: ' || g.problem,
             format('mend the function, or SELECT afterdelete.unguard(%L)', g.name) FROM afterdelete.guard_problems() g`.execute(
      this.#db,
    );
    return rows;
  }
}
