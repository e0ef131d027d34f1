/** A flag that wakes one sleeper: what rings while nobody waits is remembered, and ends the next wait at once. */
export class Signal<T> {
  #pending: T | undefined;
  #wake: ((value: T) => void) | undefined;

  /** Wakes the sleeper. Ringing twice before it wakes is ringing once, with the first value. */
  ring(value: T): void {
    if (this.#wake) this.#wake(value);
    else this.#pending ??= value;
  }

  /** Waits for a ring, at most `ms` milliseconds; undefined when the time ran out. */
  async wait(ms: number): Promise<T | undefined> {
    const pending = this.#pending;
    if (pending !== undefined) {
      this.#pending = undefined;
      return pending;
    }
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise<T | undefined>(resolve => {
        this.#wake = resolve;
        // A timer takes 31 bits; whoever sleeps longer wakes up and sleeps again.
        timer = setTimeout(resolve, Math.min(ms, 2 ** 31 - 1), undefined);
      });
    } finally {
      clearTimeout(timer);
      this.#wake = undefined;
    }
  }
}
