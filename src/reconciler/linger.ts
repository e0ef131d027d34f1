/**
 * When to stop listening and look again soon instead. A daemon that sleeps armed makes every writer NOTIFY at COMMIT,
 * one after the other: fine for a few rows a second, ruinous for hundreds. So while rows come fast it stays awake with
 * its keys given back, and looks every few milliseconds. When they come slowly it arms, and hears of each at once.
 *
 * With several daemons none sees all rows: eight that share 700 a second have fewer than 100 each, and each would sleep
 * armed. But all hear each notification, and those are what writers pay for: so they count as well.
 */

/** Rows, or notifications, within the window above which it stays awake. */
const FAST = 25;
/** The window, in ms. */
const WINDOW = 250;
/** How soon to look again, in ms. */
const PAUSE = 10;
/**
 * How long to stay awake when it was notified fast and others had the rows, in ms. Once all have given their keys back
 * nothing tells how fast rows come: to find out, one arms again, and some dozens of writers notify. As long as that is
 * so each time, it stays awake for twice as long.
 */
const HOLD_MIN = 1_000;
const HOLD_MAX = 10_000;

/** What came within the window. */
class Recent {
  readonly #now: () => number;
  readonly #entries: { at: number; count: number }[] = [];
  #sum = 0;

  constructor(now: () => number) {
    this.#now = now;
  }

  /** What is old is forgotten here too: while all claims are full, nobody asks for the sum. */
  add(count: number): void {
    this.#forgetOld();
    this.#entries.push({ at: this.#now(), count });
    this.#sum += count;
  }

  get sum(): number {
    this.#forgetOld();
    return this.#sum;
  }

  #forgetOld(): void {
    const since = this.#now() - WINDOW;
    for (
      let oldest = this.#entries[0];
      oldest !== undefined && oldest.at < since;
      oldest = this.#entries[0]
    ) {
      this.#sum -= oldest.count;
      this.#entries.shift();
    }
  }
}

export class Linger {
  readonly #now: () => number;
  readonly #rows: Recent;
  readonly #notifications: Recent;
  #heldUntil = Number.NEGATIVE_INFINITY;
  #hold = HOLD_MIN;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
    this.#rows = new Recent(now);
    this.#notifications = new Recent(now);
  }

  /** A claim came back with so many rows. */
  claimed(rows: number): void {
    if (rows > 0) this.#rows.add(rows);
  }

  /** A writer has notified. */
  notified(): void {
    this.#notifications.add(1);
  }

  /** How long to wait before looking again without arming, in ms; 0: arm and sleep. */
  get pause(): number {
    if (this.#rows.sum > FAST) return PAUSE;
    const now = this.#now();
    if (now >= this.#heldUntil && this.#notifications.sum > FAST) {
      const again = now - this.#heldUntil < HOLD_MIN;
      this.#hold = again ? Math.min(2 * this.#hold, HOLD_MAX) : HOLD_MIN;
      this.#heldUntil = now + this.#hold;
    }
    return now < this.#heldUntil ? PAUSE : 0;
  }
}
