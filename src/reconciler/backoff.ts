/** How long to wait before the next try. */

export interface BackoffOptions {
  /** Upper bound of the first wait, in ms. */
  readonly base: number;
  /** Upper bound of every wait, in ms. */
  readonly cap: number;
}

/**
 * Full jitter: anything from 0 to a bound that doubles from `base` to `cap` with every attempt, so that rows that failed
 * together do not come back together. Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
 * @param attempt the number of the attempt that failed, from 1.
 */
export function fullJitter(
  attempt: number,
  options: BackoffOptions,
  random: () => number = Math.random,
): number {
  return random() * bound(attempt, options);
}

/** The bound itself: for what must wait, and has nobody to collide with. */
export function bound(attempt: number, { base, cap }: BackoffOptions): number {
  // 2 ** 1024 is Infinity, and min() makes the cap of it; 0 * Infinity would be NaN.
  return base === 0 ? 0 : Math.min(cap, base * 2 ** (attempt - 1));
}
