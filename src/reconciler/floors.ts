/**
 * From which due time on a store is looked at, so that a claim need not pass the dead rows that all earlier claims left behind
 * and vacuum cannot remove yet.
 *
 * Two bounds for each store. The *cursor* is where the last claim ended: good within a burst, and wrong as soon as a
 * transaction commits late, whose rows lie behind it. So every quarter of a second, after each wake-up, and before the daemon sleeps,
 * a claim starts from the *floor*, which is safe: no row can appear below it any more. A row's due time is taken after its
 * transaction has an id (`created_at` in `sql/02_states.sql`; whatever goes back to pending is due now or later). So when
 * all transactions have ended that had an id before some moment (`afterdelete.mark()`), and a claim from the floor that came
 * after this was known found nothing below the cursor, then nothing is there, and nothing will be.
 *
 * What this leaves behind: rows that a transaction had locked (another worker's claim, a confirm, a cancel) which was then
 * rolled back. The floors fall back when a claim fails, when a worker vanishes, when the database's clock is set back, when the
 * server is another one, and every few minutes.
 *
 * Due times are in microseconds since 1970, on the clock of the database.
 */
import type { Mark } from '../outbox/outbox.ts';

interface Bounds {
  floor: number;
  cursor: number;
}

const START = Number.NEGATIVE_INFINITY;
/** How old the last claim from the floor may be within a burst, and how often a mark is set, in ms. */
const EVERY = 250;
/** After so long all begins from the start again, in ms. */
const FALL_BACK = 300_000;

export class Floors {
  readonly #now: () => number;
  readonly #stores = new Map<string, Bounds>();
  #marks: Mark[] = [];
  /** No row can appear any more that was due before this. */
  #settled = START;
  #sweptAt = START;
  #markedAt = START;
  /** The moment of the last mark. */
  #marked = START;
  /** The server of the marks; undefined: there are none. */
  #server: number | undefined;
  #fellBackAt: number;
  /** Whether the last claim was full: only then does a burst go on. */
  #burst = false;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
    this.#fellBackAt = now();
  }

  /** Begins the next claim: from the floors (`sweep`), or from the cursors. */
  begin(): { sweep: boolean; settled: number } {
    if (this.#now() - this.#fellBackAt >= FALL_BACK) this.fallBack();
    const sweep = !this.#burst || this.#now() - this.#sweptAt >= EVERY;
    if (sweep) this.#sweptAt = this.#now();
    return { sweep, settled: this.#settled };
  }

  /** From where on a claim looks in a store; undefined: from the start. */
  from(store: string, { sweep }: { sweep: boolean }): number | undefined {
    const { floor, cursor } = this.#of(store);
    const from = sweep ? floor : Math.max(floor, cursor);
    return from === START ? undefined : from;
  }

  /** What a claim brought of a store that it asked: the due times of its rows. */
  claimed(store: string, dues: readonly number[], claim: { sweep: boolean; settled: number }): void {
    const bounds = this.#of(store);
    const late = dues.some(due => due < bounds.cursor);
    if (claim.sweep && !late) bounds.floor = Math.max(bounds.floor, Math.min(bounds.cursor, claim.settled));
    for (const due of dues) bounds.cursor = Math.max(bounds.cursor, due);
  }

  /** Whether the claim was full, over all stores. */
  ended(full: boolean): void {
    this.#burst = full;
  }

  /** Whether it is time to set a mark: some store has been claimed from above its floor. */
  get wantsMark(): boolean {
    if (this.#now() - this.#markedAt < EVERY) return false;
    return [...this.#stores.values()].some(({ floor, cursor }) => cursor > floor);
  }

  marked(mark: Mark): void {
    this.#markedAt = this.#now();
    // The database's clock was set back: what is written now lies behind.
    if (mark.moment < this.#marked || !this.areOf(mark.server)) this.fallBack();
    this.#marked = mark.moment;
    this.#server = mark.server;
    this.#marks.push(mark);
    while (this.#marks[0] !== undefined && this.#marks[0].own <= mark.endedBelow) {
      this.#settled = Math.max(this.#settled, (this.#marks.shift() as Mark).moment);
    }
  }

  /** Whether they were learned from that server, or there are none. */
  areOf(server: number): boolean {
    return this.#server === undefined || this.#server === server;
  }

  /** All stores, or one, from the start: rows may lie anywhere. */
  fallBack(store?: string): void {
    if (store !== undefined) {
      this.#stores.delete(store);
      return;
    }
    this.#stores.clear();
    this.#marks = [];
    this.#server = undefined;
    this.#settled = START;
    this.#fellBackAt = this.#now();
  }

  #of(store: string): Bounds {
    const bounds = this.#stores.get(store) ?? { floor: START, cursor: START };
    this.#stores.set(store, bounds);
    return bounds;
  }
}
