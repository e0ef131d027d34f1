/**
 * The threads in which files are deleted: system calls that wait for a disk hold up no heartbeat, no metrics and no other
 * store, and made synchronously they cost a fraction of what a promise each would.
 *
 * Small work has threads of its own, so that a tree of a million files never makes one file wait.
 */
import { Tinypool, type TinypoolWorker } from 'tinypool';
import { StorageError } from '../contract.ts';
import type { Answer, Failure } from './orders.ts';
import type { Orders } from './worker.ts';

declare global {
  /** Tinypool's types name it as browsers have it; Node's types have none by that name. */
  interface Worker {
    readonly resourceLimits?: object;
  }
}

/** Deleting in several directories at a time is what makes a disk fast; beyond four nothing was gained. */
export const TREE_THREADS = 4;
const QUICK_THREADS = 4;

/** How long a thread is kept that has nothing to do, in ms. One of each kind always is. */
const IDLE = 30_000;

/** Threads that hang in a system call and have been given up. Each holds some memory until the kernel lets it go. */
const MOST_HANGING = 32;

const WORKER = new URL(import.meta.url.endsWith('.ts') ? './worker.ts' : './worker.js', import.meta.url).href;

export type Lane = 'quick' | 'trees' | 'looks';

/** The threads of this process: all its file handlers share them, and the last to close ends them. */
let shared: Threads | undefined;
let users = 0;

export function useThreads(): { readonly threads: Threads; readonly release: () => void } {
  shared ??= new Threads();
  users += 1;
  let released = false;
  const release = () => {
    if (released) return;
    released = true;
    users -= 1;
    if (users > 0) return;
    shared?.close();
    shared = undefined;
  };
  return { threads: shared, release };
}

export class Threads {
  readonly #lanes = new Map<Lane, Tinypool>();
  /** All that have not ended: those of the pools, and those that have been given up. */
  readonly #alive = new Set<TinypoolWorker>();
  readonly #worker: string;

  constructor(worker = WORKER) {
    this.#worker = worker;
  }

  /**
   * Has an order carried out. When the signal is aborted, the order is taken back: by `stop`, which is to reach a thread
   * at work, and by ending the thread, which takes effect when its system call comes back. Another takes its place.
   * @throws StorageError that the thread has classified.
   */
  async run<W extends keyof Orders>(
    lane: Lane,
    what: W,
    order: Parameters<Orders[W]>[0],
    { signal, stop }: { readonly signal?: AbortSignal; readonly stop?: () => void } = {},
  ): Promise<ValueOf<W>> {
    const pool = this.#poolOf(lane);
    if (this.hanging >= MOST_HANGING) {
      throw new StorageError(
        'unavailable',
        `${this.hanging} storage calls have not come back: expected the disk to answer, and none is begun before it does`,
      );
    }
    if (stop) signal?.addEventListener('abort', stop, { once: true });
    try {
      const running = pool.run(order, { name: what, ...(signal && { signal }) });
      this.#count(pool);
      const answer = (await running) as Answer<ValueOf<W>>;
      if ('failure' in answer) throw new ThreadFailure(answer.failure);
      return answer.value;
    } finally {
      if (stop) signal?.removeEventListener('abort', stop);
    }
  }

  /** Threads that were given up and hang in a system call. */
  get hanging(): number {
    let inPools = 0;
    for (const pool of this.#lanes.values()) {
      // A replacement may have been started meanwhile.
      this.#count(pool);
      inPools += pool.threads.length;
    }
    return Math.max(0, this.#alive.size - inPools);
  }

  /** Ends all threads; those that hang are left. */
  close(): void {
    for (const pool of this.#lanes.values()) void pool.destroy();
    this.#lanes.clear();
  }

  #poolOf(lane: Lane): Tinypool {
    const known = this.#lanes.get(lane);
    if (known) return known;
    const pool = new Tinypool({
      filename: this.#worker,
      // One at least: when all have hung and been given up, it is what takes up the orders that wait.
      minThreads: 1,
      maxThreads: MOST[lane],
      idleTimeout: IDLE,
      // Those of the process may be for its main script alone (`node --input-type=module -e …`).
      execArgv: [],
      // One order at a time, or a thread that is ended would take others' work with it.
      concurrentTasksPerWorker: 1,
    });
    // A thread that dies without work, e.g. for want of memory: the next order gets a new one.
    pool.on('error', () => {});
    this.#lanes.set(lane, pool);
    return pool;
  }

  #count(pool: Tinypool): void {
    for (const thread of pool.threads) {
      if (this.#alive.has(thread)) continue;
      this.#alive.add(thread);
      thread.once('exit', () => this.#alive.delete(thread));
    }
  }
}

/** What an order gives. */
type ValueOf<W extends keyof Orders> = Extract<ReturnType<Orders[W]>, { readonly value: unknown }>['value'];

const MOST: Readonly<Record<Lane, number>> = {
  quick: QUICK_THREADS,
  trees: TREE_THREADS,
  // What an inspection has seen so far is kept in its thread: there is one only.
  looks: 1,
};

/** A failure that was classified in a thread. */
export class ThreadFailure extends StorageError {
  readonly failure: Failure;

  constructor(failure: Failure) {
    super(failure.kind, failure.message);
    this.failure = failure;
  }
}
