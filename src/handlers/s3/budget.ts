/** How many keys a second a bucket takes, found out by what it answers: a store that says SlowDown gets less for a while. */
import { setTimeout as setTimeoutOf } from 'node:timers/promises';
import { type Context, StorageError } from '../contract.ts';

const SECOND = 1_000;
/** Never fewer keys a second than these. */
const LEAST = 10;
/** So many keys a second more with every second that passes without a SlowDown. */
const STEP = 100;
/** Above this the limit is as good as none, and is forgotten. */
const ENOUGH = 20_000;
/** What is sent within so many ms is counted as one. */
const GRAIN = 20;
/** How often a wait looks whether it should end, in ms. */
const CHECK = 250;

/**
 * Additive increase, multiplicative decrease, over keys and not requests: AWS counts each key of a DeleteObjects, and
 * answers SlowDown for some of them in an answer that is otherwise a success. The decrease goes by the share of keys that
 * were refused: half the rate when all were, little when few were. Without a SlowDown there is no limit at all.
 */
export class Budget {
  readonly #now: () => number;
  #limit: number | undefined;
  #balance = 0;
  #filledAt = 0;
  #loweredAt = Number.NEGATIVE_INFINITY;
  #raisedAt = 0;
  /** Keys sent lately, to know what "less" is when the first SlowDown comes. */
  #sent: { readonly at: number; keys: number }[] = [];

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Keys a second; undefined: as many as can be. */
  get limit(): number | undefined {
    this.#raise();
    return this.#limit;
  }

  /** Most keys that one request should have now: a quarter of a second's worth, `most` where there is no limit. */
  chunk(most: number): number {
    const { limit } = this;
    return limit === undefined ? most : Math.min(most, Math.max(1, Math.ceil(limit / 4)));
  }

  /** Milliseconds until something may be sent; 0: now. */
  get wait(): number {
    const { limit } = this;
    if (limit === undefined) return 0;
    const now = this.#now();
    this.#balance = Math.min(limit / 4, this.#balance + ((now - this.#filledAt) / SECOND) * limit);
    this.#filledAt = now;
    return this.#balance >= 0 ? 0 : Math.ceil((-this.#balance / limit) * SECOND) + 1;
  }

  /**
   * Waits until so many keys may be sent, and counts them as sent. It waits outside of the context's slots, which others need.
   * @returns when they were sent, for `answered`.
   * @throws StorageError of kind `blocked` when the work should end first.
   */
  async take(keys: number, context: Pick<Context, 'shouldYield'>): Promise<number> {
    for (let { wait } = this; wait > 0; { wait } = this) {
      if (context.shouldYield()) {
        throw new StorageError(
          'blocked',
          `the store asked for less: ${Math.round(this.#limit ?? 0)} keys a second`,
        );
      }
      await setTimeoutOf(Math.min(wait, CHECK));
    }
    const now = this.#now();
    // What went while there was no limit is no debt.
    if (this.#limit !== undefined) this.#balance -= keys;
    const last = this.#sent.at(-1);
    // Single deletes are thousands a second: counted together, so that none has to look at all others.
    if (last !== undefined && now - last.at < GRAIN) last.keys += keys;
    else this.#sent = [...this.#sent.filter(({ at }) => now - at < SECOND), { at: now, keys }];
    return now;
  }

  /** What came of keys that were sent at `sentAt`: so many of them were answered SlowDown. */
  answered({ sentAt, keys, slow }: { sentAt: number; keys: number; slow: number }): void {
    const now = this.#now();
    // What was sent before the rate was lowered says nothing about the lower one.
    if (slow === 0 || sentAt < this.#loweredAt) return;
    if (this.#limit !== undefined && now - this.#loweredAt < SECOND) return;
    const lately = this.#sent.reduce((sum, sent) => sum + (now - sent.at < SECOND ? sent.keys : 0), 0);
    const before = this.limit ?? Math.max(lately, keys);
    this.#limit = Math.max(LEAST, before * (1 - slow / keys / 2));
    this.#balance = Math.min(this.#balance, 0);
    this.#filledAt = now;
    this.#loweredAt = now;
    this.#raisedAt = now;
  }

  #raise(): void {
    if (this.#limit === undefined) return;
    const steps = Math.floor((this.#now() - this.#raisedAt) / SECOND);
    if (steps < 1) return;
    this.#raisedAt += steps * SECOND;
    this.#limit += steps * STEP;
    if (this.#limit >= ENOUGH) {
      this.#limit = undefined;
      this.#balance = 0;
    }
  }
}
