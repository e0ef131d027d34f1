/** Which client's statement comes next, so that two transactions interleave in an order that is made up beforehand. */

/** A turn that lasts longer waits for a lock, most likely: then the others go on. No result depends on it. */
const LONGEST_TURN = 3;

/** `outside`: it waits for something that is no turn, or has ended: nobody waits for it. */
type State = 'thinking' | 'waiting' | 'running' | 'outside';

export class Turns {
  readonly #order: readonly number[];
  #next = 0;
  readonly #states: State[];
  readonly #grants: (() => void)[] = [];

  constructor(clients: number, order: readonly number[]) {
    this.#order = order;
    this.#states = Array.from({ length: clients }, () => 'thinking');
  }

  /** Runs a statement of a client when it is its turn. */
  async take<T>(client: number, statement: () => Promise<T>): Promise<T> {
    await new Promise<void>(resolve => {
      this.#grants[client] = resolve;
      this.#enter(client, 'waiting');
    });
    const timer = setTimeout(() => this.#enter(client, 'outside'), LONGEST_TURN);
    try {
      return await statement();
    } finally {
      clearTimeout(timer);
      this.#enter(client, 'thinking');
    }
  }

  /** While this client waits for something else, or when it has ended, the others go on. */
  leave(client: number): void {
    this.#enter(client, 'outside');
  }

  #enter(client: number, state: State): void {
    this.#states[client] = state;
    if (this.#states.some(s => s === 'thinking' || s === 'running')) return;
    const waiting = [...this.#states.keys()].filter(i => this.#states[i] === 'waiting');
    if (waiting.length === 0) return;
    const choice = this.#order[this.#next++ % this.#order.length] ?? 0;
    const chosen = waiting[choice % waiting.length] as number;
    this.#states[chosen] = 'running';
    this.#grants[chosen]?.();
  }
}
