/**
 * A store that is down is not its rows' fault. After a few failures in a row the breaker opens: nothing is claimed for
 * the store but, after growing waits, one row as a probe. One answer of the storage, even a refusal, closes it.
 */
import { bound } from './backoff.ts';

export interface BreakerOptions {
  /** Failures in a row that open it. */
  readonly threshold: number;
  /** First wait before a probe, in ms; it doubles with every failed one. */
  readonly base: number;
  /** Longest wait, in ms. */
  readonly cap: number;
}

export const BREAKER_DEFAULTS: BreakerOptions = { threshold: 3, base: 500, cap: 60_000 };

export class Breaker {
  readonly #options: BreakerOptions;
  readonly #now: () => number;
  #failures = 0;
  /** Failed probes since it opened. */
  #probes = 0;
  #probeAt = 0;

  constructor(options: BreakerOptions = BREAKER_DEFAULTS, now: () => number = () => performance.now()) {
    this.#options = options;
    this.#now = now;
  }

  get open(): boolean {
    return this.#failures >= this.#options.threshold;
  }

  /** Milliseconds until a probe may be sent; 0 when it may, or when the breaker is closed. */
  get wait(): number {
    return this.open ? Math.max(0, this.#probeAt - this.#now()) : 0;
  }

  /** The store did not answer. Returns true when this opened the breaker. */
  failure(): boolean {
    // Rows that were on their way when it opened tell nothing new.
    if (this.open && this.wait > 0) return false;
    const opened = ++this.#failures === this.#options.threshold;
    if (this.open) {
      this.#probes = opened ? 1 : this.#probes + 1;
      this.#probeAt = this.#now() + bound(this.#probes, this.#options);
    }
    return opened;
  }

  /** The store answered. Returns true when this closed the breaker. */
  success(): boolean {
    const closed = this.open;
    this.#failures = 0;
    this.#probes = 0;
    return closed;
  }
}
