/** A context as handlers get it, with real slots and a real time limit, that tests can stop, watch and count. */
import pLimit from 'p-limit';
import { type Context, type Receipt, Stopped, StorageError } from '../../src/handlers/contract.ts';

export interface TestContext extends Context {
  /** Storage calls that were begun. */
  readonly calls: number;
  /** Most storage calls that were in flight at the same time. */
  readonly mostAtOnce: number;
  /** Storage calls that were refused because the context had stopped. */
  readonly refused: number;
  /** What was told of each cleanup, in order. */
  readonly reports: ReadonlyMap<string, readonly Receipt[]>;
  /** Every further storage call throws Stopped. */
  stop(): void;
  /** Lets so many further storage calls begin, then stops: 0 is `stop()`. */
  stopAfter(calls: number): void;
  /** Decides what `shouldYield` says; false unless set. */
  yieldWhen(decide: () => boolean): void;
  /** Runs just before a storage call begins, e.g. to change what is stored at a known moment. */
  beforeCall(hook: (call: number) => void | Promise<void>): void;
}

export interface TestContextOptions {
  /** Storage calls in flight at most. Default 8. */
  readonly slots?: number;
  /** How long one storage call may take, in milliseconds. Default 20,000: tests that want less say so. */
  readonly timeout?: number;
  /** What is recorded for each root. Default: nothing. */
  readonly identity?: (root: string) => string | undefined;
}

export function createTestContext(options: TestContextOptions = {}): TestContext {
  const { slots = 8, timeout = 20_000, identity = () => undefined } = options;
  const limit = pLimit(slots);
  const reports = new Map<string, Receipt[]>();
  let begun = 0;
  let inFlight = 0;
  let mostAtOnce = 0;
  let refused = 0;
  let left = Number.POSITIVE_INFINITY;
  let decide: () => boolean = () => false;
  let hook: (call: number) => void | Promise<void> = () => {};

  async function begin<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    if (left <= 0) {
      refused += 1;
      throw new Stopped('the test has stopped the work');
    }
    left -= 1;
    begun += 1;
    inFlight += 1;
    mostAtOnce = Math.max(mostAtOnce, inFlight);
    try {
      await hook(begun);
      return await withTimeout(work, timeout);
    } finally {
      inFlight -= 1;
    }
  }

  return {
    get calls() {
      return begun;
    },
    get mostAtOnce() {
      return mostAtOnce;
    },
    get refused() {
      return refused;
    },
    reports,
    // As in the daemon, a call inside a call would wait for a slot that its own caller holds: a deadlock, not an error.
    call: work => limit(() => begin(work)),
    shouldYield: () => decide(),
    progress(id, receipt) {
      const told = reports.get(id) ?? [];
      told.push(receipt);
      reports.set(id, told);
    },
    identity,
    stop() {
      left = 0;
    },
    stopAfter(calls) {
      left = calls;
    },
    yieldWhen(next) {
      decide = next;
    },
    beforeCall(next) {
      hook = next;
    },
  };
}

async function withTimeout<T>(work: (signal: AbortSignal) => Promise<T>, timeout: number): Promise<T> {
  const controller = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      const error = new StorageError('unavailable', `the storage did not answer within ${timeout} ms`);
      controller.abort(error);
      reject(error);
    }, timeout);
  });
  try {
    return await Promise.race([work(controller.signal), late]);
  } finally {
    clearTimeout(timer);
  }
}
