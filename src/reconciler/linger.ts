/**
 * When to stop listening and look again soon instead. A daemon that sleeps armed makes every writer NOTIFY at COMMIT,
 * one after the other: fine for a few rows a second, ruinous for hundreds. So while rows come fast it stays awake with
 * its keys given back, and looks every few milliseconds. When they come slowly it arms, and hears of each at once.
 */

/** Rows within the window above which it stays awake. */
const FAST = 25;
/** The window, in ms. */
const WINDOW = 250;
/** How soon to look again, in ms. */
const PAUSE = 10;

export class Linger {
  readonly #now: () => number;
  #recent: { at: number; rows: number }[] = [];

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** A claim came back with so many rows. */
  claimed(rows: number): void {
    if (rows === 0) return;
    this.#forgetOld();
    this.#recent.push({ at: this.#now(), rows });
  }

  /** How long to wait before looking again without arming, in ms; 0: arm and sleep. */
  get pause(): number {
    this.#forgetOld();
    return this.#recent.reduce((sum, { rows }) => sum + rows, 0) > FAST ? PAUSE : 0;
  }

  /** With every claim too: while all claims are full, nobody asks how long to wait. */
  #forgetOld(): void {
    const since = this.#now() - WINDOW;
    this.#recent = this.#recent.filter(({ at }) => at >= since);
  }
}
