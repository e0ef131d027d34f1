/** The roots of the other live workers: what lies inside them, and inside none of ours, is theirs. */
import type { Outbox } from '../outbox/outbox.ts';

export class Neighbours {
  readonly #outbox: Pick<Outbox, 'liveRoots'>;
  readonly #mine: ReadonlySet<string>;
  #roots: readonly string[] = [];

  constructor(outbox: Pick<Outbox, 'liveRoots'>, mine: readonly string[]) {
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
    this.#roots = live.filter(root => !this.#mine.has(root));
    return live;
  }
}
