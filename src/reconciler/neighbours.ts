/** The roots of the other live workers: what lies inside them, and inside none of ours, is theirs. */
import type { Outbox } from '../outbox/outbox.ts';

export class Neighbours {
  readonly #outbox: Pick<Outbox, 'liveRoots'>;
  readonly #mine: ReadonlySet<string>;
  readonly #onChange: () => void;
  #roots: readonly string[] = [];

  /** `onChange`: rows that were others' may be ours now. */
  constructor(outbox: Pick<Outbox, 'liveRoots'>, mine: readonly string[], onChange: () => void) {
    this.#onChange = onChange;
    this.#outbox = outbox;
    this.#mine = new Set(mine);
  }

  /** Roots that others served when last asked, and this worker does not. */
  get roots(): readonly string[] {
    return this.#roots;
  }

  /** Asks anew; returns the roots of all live workers, this one's among them. */
  async refresh(): Promise<readonly string[]> {
    const live = await this.#outbox.liveRoots();
    const roots = live.filter(root => !this.#mine.has(root));
    const changed = roots.join() !== this.#roots.join();
    this.#roots = roots;
    if (changed) this.#onChange();
    return live;
  }
}
