/** How fast a store may be worked on, for storage that must not be hammered: so many rows or objects a second. */

const SECOND = 1_000;

/**
 * A bucket that fills at a rate and holds a second's worth. What is spent may be more than there is, since nobody knows before
 * how many objects a prefix has: then nothing goes until the debt is paid. So the rate holds on average, and a burst is
 * a second's worth and what is under way.
 */
export class Rate {
  readonly perSecond: number;
  readonly #now: () => number;
  #balance: number;
  #at: number;

  constructor(perSecond: number, now: () => number = () => performance.now()) {
    this.perSecond = perSecond;
    this.#now = now;
    this.#balance = perSecond;
    this.#at = now();
  }

  /** Milliseconds until something may go; 0: now. */
  get wait(): number {
    const now = this.#now();
    this.#balance = Math.min(this.perSecond, this.#balance + ((now - this.#at) / SECOND) * this.perSecond);
    this.#at = now;
    return this.#balance > 0 ? 0 : Math.ceil((-this.#balance / this.perSecond) * SECOND) + 1;
  }

  /** So many rows were begun, or objects deleted. */
  spend(amount: number): void {
    this.#balance -= amount;
  }
}
