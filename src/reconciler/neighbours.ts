/** The roots of the other workers: what lies inside them, and inside none of ours, is theirs. */
import type { Outbox } from '../outbox/outbox.ts';

export interface NeighboursOptions {
  readonly outbox: Pick<Outbox, 'liveRoots'>;
  /** The roots of this worker. */
  readonly mine: readonly string[];
  /**
   * How long a root is left to a worker that is gone, in ms: one that is replaced, or that an outage has cost its lease as it has others, is
   * back by then. What lies inside a root that nobody serves is dead.
   */
  readonly grace: number;
  /** Rows that were others' may be ours now. */
  readonly onChange: () => void;
  readonly now?: () => number;
}

export class Neighbours {
  readonly #options: NeighboursOptions;
  readonly #mine: ReadonlySet<string>;
  readonly #now: () => number;
  /** Each root that others serve, or served until a moment ago, with when it was first found without a worker. */
  #others = new Map<string, number | undefined>();

  constructor(options: NeighboursOptions) {
    this.#options = options;
    this.#mine = new Set(options.mine);
    this.#now = options.now ?? (() => performance.now());
  }

  /** Roots that others served when last asked, or not long before, and this worker does not. */
  get roots(): readonly string[] {
    return [...this.#others.keys()];
  }

  /** Asks anew; returns the roots of all workers, this one's among them. */
  async refresh(): Promise<readonly string[]> {
    const { outbox, grace, onChange } = this.#options;
    const live = await outbox.liveRoots();
    const now = this.#now();
    const others = new Map<string, number | undefined>();
    for (const root of live) if (!this.#mine.has(root)) others.set(root, undefined);
    for (const [root, goneAt = now] of this.#others)
      if (!others.has(root) && now - goneAt < grace) others.set(root, goneAt);
    const changed = [...others.keys()].sort().join() !== [...this.#others.keys()].sort().join();
    this.#others = others;
    if (changed) onChange();
    return [...this.#mine, ...others.keys()].sort();
  }
}
