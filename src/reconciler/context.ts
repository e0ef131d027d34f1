/** What a handler is given to work with: a slot for each storage call, within the lease, and no longer than allowed. */
import { setTimeout as setTimeoutOf } from 'node:timers/promises';
import type { LimitFunction } from 'p-limit';
import { type Context, type Receipt, Stopped, StorageError } from '../handlers/contract.ts';
import { isReceipt } from './given.ts';
import type { Lease } from './lease.ts';
import type { Rate } from './rate.ts';

/** Everything a worker does between getting a lease and losing it. */
export interface Tenure {
  /** No further storage call: the lease is lost, or the grace after SIGTERM is over. */
  ended: boolean;
  /** The daemon stops: what can yield should. */
  stopping: boolean;
}

export interface ContextOptions {
  readonly lease: Pick<Lease, 'allows' | 'ensure'>;
  readonly tenure: Tenure;
  /** The store's slots. */
  readonly slots: LimitFunction;
  /** Longest a storage call may take, in ms. */
  readonly storageTimeout: number;
  /** What must be left of the lease besides, in ms. */
  readonly margin: number;
  /** When the time slice ends, on the clock of `performance.now()`. */
  readonly sliceEnd: number;
  /** Calls wait for it: for trees and prefixes, whose objects nobody has counted before. */
  readonly rate: Rate | undefined;
  readonly identity: (root: string) => string | undefined;
  readonly onProgress: (id: string, receipt: Receipt) => void;
}

/** How often a call that waits for the rate looks whether it should end, in ms. */
const RATE_CHECK = 250;

export function createContext(options: ContextOptions): Context {
  const { lease, tenure, slots, storageTimeout, margin } = options;
  const needed = storageTimeout + margin;

  const run = async <T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> => {
    // Looked at when the slot is there, not when it was asked for.
    if (!lease.allows(needed)) await lease.ensure(needed);
    if (tenure.ended) throw new Stopped('the worker has stopped');
    const abort = new AbortController();
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        const error = new StorageError(
          'unavailable',
          `the storage did not answer within ${storageTimeout / 1000} s`,
        );
        abort.abort(error);
        reject(error);
      }, storageTimeout);
    });
    try {
      return await Promise.race([work(abort.signal), timeout]);
    } finally {
      clearTimeout(timer);
    }
  };

  const shouldYield = () => tenure.stopping || tenure.ended || performance.now() >= options.sliceEnd;
  let progressed = false;

  /** A slice that ends while it waits is no failure: with something deleted it yields, without it waits on. */
  const pace = async () => {
    for (let wait = options.rate?.wait ?? 0; wait > 0; wait = options.rate?.wait ?? 0) {
      if (tenure.stopping || tenure.ended || (progressed && shouldYield()))
        throw new Stopped('the rate of its store allows no more for now');
      await setTimeoutOf(Math.min(wait, RATE_CHECK));
    }
  };

  const call = async <T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> => {
    if (options.rate !== undefined) await pace();
    return await slots(() => run(work));
  };

  return {
    call: work => {
      const called = call(work);
      // A handler that does not wait for it will not hear that it failed; nor need the process, which would end for that.
      called.catch(() => {});
      return called;
    },
    shouldYield,
    progress: (id, receipt) => {
      if (!isReceipt(receipt)) return;
      progressed ||= receipt.objects > 0;
      options.onProgress(id, receipt);
    },
    identity: options.identity,
  };
}
