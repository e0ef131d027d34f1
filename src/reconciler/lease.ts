/**
 * A worker's right to the rows it has claimed.
 *
 * The database knows it as one row a worker with a time; the worker knows it as a deadline on its own monotonic clock,
 * counted from before it asked, so that it is never later than the database's. Before every storage call it must still
 * have enough of it for that call to end. A worker that was paused or cut off therefore stops by itself, before its
 * rows can be in other hands; what it writes afterwards is fenced by the claim number.
 */
import { Stopped } from '../handlers/contract.ts';
import type { Beat, Outbox, WorkerDescription } from '../outbox/outbox.ts';

export interface LeaseOptions {
  readonly outbox: Pick<Outbox, 'register' | 'heartbeat' | 'deregister'>;
  readonly worker: WorkerDescription;
  /** It has a new worker row. */
  readonly onAcquired: (worker: string) => void;
  /** After every heartbeat that renewed the lease. */
  readonly onBeat: (beat: Beat) => void;
  /** This worker has been taken for vanished. */
  readonly onLost: () => void;
  readonly onTrouble: (doing: string, error: unknown) => void;
}

/** Heartbeats in the time of one lease: some may fail, and storage calls still have half of it. */
const BEATS = 4;

export class Lease {
  readonly #options: LeaseOptions;
  #id: string | undefined;
  #deadline = Number.NEGATIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;
  #beating: Promise<void> | undefined;
  #waiting: (() => void)[] = [];

  constructor(options: LeaseOptions) {
    this.#options = options;
  }

  /** The worker's id, while it has one. */
  get worker(): string | undefined {
    return this.#id;
  }

  /** Gets a new worker row. */
  async acquire(): Promise<string> {
    const asked = performance.now();
    const id = await this.#options.outbox.register(this.#options.worker);
    this.#id = id;
    this.#renewed(asked);
    this.#options.onAcquired(id);
    return id;
  }

  /** True when a call that takes at most `ms` would end within the lease. */
  allows(ms: number): boolean {
    return this.#deadline - performance.now() >= ms;
  }

  /**
   * Waits until a call of at most `ms` would end within the lease.
   * @throws Stopped when the lease is lost.
   */
  async ensure(ms: number): Promise<void> {
    while (!this.allows(ms)) {
      if (this.#id === undefined) throw new Stopped('the lease was lost');
      await new Promise<void>(resolve => this.#waiting.push(resolve));
    }
  }

  /** Sends a heartbeat now; one at a time. */
  async beat(): Promise<void> {
    this.#beating ??= this.#beat().finally(() => {
      this.#beating = undefined;
    });
    await this.#beating;
  }

  async #beat(): Promise<void> {
    const id = this.#id;
    if (id === undefined) return;
    const asked = performance.now();
    try {
      const beat = await this.#options.outbox.heartbeat(id, this.#options.worker.lease);
      if (this.#id !== id) return;
      if (!beat.alive) return this.lost();
      this.#renewed(asked);
      this.#options.onBeat(beat);
    } catch (error) {
      if (this.#id !== id) return;
      this.#options.onTrouble('renewing the lease', error);
      this.#schedule(this.#options.worker.lease / (4 * BEATS));
    }
  }

  #renewed(asked: number): void {
    this.#deadline = asked + this.#options.worker.lease;
    this.#schedule(this.#options.worker.lease / BEATS);
    this.#wakeAll();
  }

  #schedule(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.beat(), ms);
  }

  #wakeAll(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const wake of waiting) wake();
  }

  /** The database says that the rows are no longer ours. */
  lost(): void {
    if (this.#id === undefined) return;
    this.#forget();
    this.#options.onLost();
  }

  #forget(): void {
    clearTimeout(this.#timer);
    this.#id = undefined;
    this.#deadline = Number.NEGATIVE_INFINITY;
    this.#wakeAll();
  }

  /** Ends in good order: the database hands back what is still held. Returns how many rows that were. */
  async release(): Promise<number> {
    const id = this.#id;
    this.#forget();
    return id === undefined ? 0 : await this.#options.outbox.deregister(id);
  }
}
