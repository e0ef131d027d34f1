/**
 * When a claim asks the guard along: a few rows that wake a sleeping daemon are begun a round trip sooner. Not while many come,
 * which are asked about while the next are claimed; and not for a while after it took long or went wrong, so that a slow guard
 * or a locked table holds up no claim.
 */

/** Most rows that are asked about with their claim. */
const FEW = 32;
/** A claim with its question that takes longer was too slow, in ms. */
const SLOW = 100;
/** How long they go apart then, in ms. */
const APART = 60_000;

export class AskAlong {
  readonly #now: () => number;
  #apartUntil = Number.NEGATIVE_INFINITY;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Claims: `few` is how many rows at most the guard is asked about as well. `burst`: many rows come. */
  async claim<T extends { readonly rows: readonly unknown[]; readonly asked: boolean }>(
    burst: boolean,
    claim: (few: number) => Promise<T>,
  ): Promise<T> {
    const begun = this.#now();
    if (burst || begun < this.#apartUntil) return await claim(0);
    let well = false;
    try {
      const claimed = await claim(FEW);
      const { length } = claimed.rows;
      well = length === 0 || length > FEW || (claimed.asked && this.#now() - begun < SLOW);
      return claimed;
    } finally {
      if (!well) this.#apartUntil = this.#now() + APART;
    }
  }
}
