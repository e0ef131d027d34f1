/** Settles in batches: many rows, one round trip. It goes on trying while the lease lasts; nothing is dropped silently. */
import { isDataError } from '../outbox/errors.ts';
import type { Outbox } from '../outbox/outbox.ts';
import type { Settlement } from '../outbox/rows.ts';

export interface SettlerOptions {
  readonly outbox: Pick<Outbox, 'settleDone' | 'settleBack' | 'settleDead'>;
  /** Name of the worker, for the audit trail. */
  readonly worker: string;
  /** Whether done rows are kept. */
  readonly history: boolean;
  /** What became of a row: committed, or (not held) fenced, because it had been taken over. */
  readonly onSettled: (settlement: Settlement, held: boolean) => void;
  /** A row whose settlement the database refuses as data: it is still marked as running. */
  readonly onRefused: (settlement: Settlement) => void;
  readonly onTrouble: (doing: string, error: unknown) => void;
}

const MOST_ROWS = 2_000;
const FLUSH_ROWS = 1_000;
const FLUSH_MS = 5;
/** Writes under way at a time: while the one waits for the disk, the other is worked on. */
const LANES = 2;
/** How long few rows wait for the write that is under way, before they go in one of their own. */
const HUNG_MS = 100;
const RETRY_MIN = 50;
const RETRY_MAX = 2_000;

type Kind = Settlement['kind'];
type OfKind<K extends Kind> = Settlement & { kind: K };

export class Settler {
  readonly #options: SettlerOptions;
  #queue: Settlement[] = [];
  #timer: NodeJS.Timeout | undefined;
  readonly #lanes = new Set<Promise<void>>();
  /** Rises when the lease is lost: what was on its way is nobody's business any more. */
  #generation = 0;
  readonly #endWaits = new Set<() => void>();

  constructor(options: SettlerOptions) {
    this.#options = options;
  }

  add(settlement: Settlement): void {
    this.#queue.push(settlement);
    if (this.#queue.length >= FLUSH_ROWS) this.#start();
    else this.#timer ??= setTimeout(() => this.#start(), this.#lanes.size === 0 ? FLUSH_MS : HUNG_MS);
  }

  /** Resolves when all that was added is settled, or forgotten. */
  async flush(): Promise<void> {
    while (this.#queue.length > 0 || this.#lanes.size > 0) {
      this.#start();
      await Promise.race(this.#lanes);
    }
  }

  /** The lease is lost: forgets what is not settled. The rows are others' now, and their fence would refuse us. */
  forget(): void {
    this.#generation += 1;
    this.#queue = [];
    this.#endTimer();
    for (const end of this.#endWaits) end();
  }

  #start(): void {
    this.#endTimer();
    if (this.#queue.length === 0 || this.#lanes.size >= LANES) return;
    const lane = this.#work().finally(() => {
      this.#lanes.delete(lane);
      // While the other is at it, it takes what few have come; many need not wait for it.
      if (this.#lanes.size === 0 || this.#queue.length >= FLUSH_ROWS) this.#start();
    });
    this.#lanes.add(lane);
  }

  #endTimer(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  async #work(): Promise<void> {
    while (this.#queue.length > 0) {
      const generation = this.#generation;
      const rows = this.#queue.splice(0, MOST_ROWS);
      // It was for these; whoever comes next has one of its own.
      this.#endTimer();
      const of = <K extends Kind>(kind: K) => rows.filter((row): row is OfKind<K> => row.kind === kind);
      const { outbox, worker, history } = this.#options;
      await this.#settle(of('done'), part => outbox.settleDone(worker, history, part), generation);
      await this.#settle(of('back'), part => outbox.settleBack(part), generation);
      await this.#settle(of('dead'), part => outbox.settleDead(worker, part), generation);
    }
  }

  async #settle<K extends Kind>(
    rows: OfKind<K>[],
    write: (rows: OfKind<K>[]) => Promise<string[]>,
    generation: number,
  ): Promise<void> {
    let doubtful = false;
    for (
      let wait = RETRY_MIN;
      rows.length > 0 && generation === this.#generation;
      wait = Math.min(2 * wait, RETRY_MAX)
    ) {
      try {
        const fenced = new Set(await write(rows));
        const tell = () => {
          if (generation !== this.#generation) return;
          // A try whose answer was lost may have been committed: then these rows are settled, and by us.
          for (const row of rows) this.#options.onSettled(row, doubtful || !fenced.has(row.row.id));
        };
        // While more wait to be settled they are sent first: the database need not wait for those who are told.
        if (this.#queue.length > 0) setImmediate(tell);
        else tell();
        return;
      } catch (error) {
        if (generation !== this.#generation) return;
        this.#options.onTrouble(`settling ${rows.length} rows`, error);
        if (isDataError(error)) return await this.#split(rows, write, generation);
        doubtful = true;
        await this.#wait(wait);
      }
    }
  }

  /** Finds the row that the database refuses, and settles the others. */
  async #split<K extends Kind>(
    rows: OfKind<K>[],
    write: (rows: OfKind<K>[]) => Promise<string[]>,
    generation: number,
  ): Promise<void> {
    const [first] = rows;
    if (first === undefined) return;
    if (rows.length === 1) return this.#options.onRefused(first);
    const middle = Math.ceil(rows.length / 2);
    await this.#settle(rows.slice(0, middle), write, generation);
    await this.#settle(rows.slice(middle), write, generation);
  }

  async #wait(ms: number): Promise<void> {
    await new Promise<void>(resolve => {
      const end = () => {
        clearTimeout(timer);
        this.#endWaits.delete(end);
        resolve();
      };
      const timer = setTimeout(end, ms);
      this.#endWaits.add(end);
    });
  }
}
