/**
 * The threads in which files are deleted: system calls that wait for a disk hold up no heartbeat, no metrics and no other
 * store, and made synchronously they cost a fraction of what a promise each would.
 *
 * Small work has threads of its own, so that a tree of a million files never makes one file wait; and so has each root,
 * so that a disk that does not answer holds up no other.
 */
import { Tinypool, type TinypoolWorker } from 'tinypool';
import { Stopped, StorageError } from '../contract.ts';
import type { Answer, Failure } from './orders.ts';
import type { Orders } from './worker.ts';

declare global {
  /** Tinypool's types name it as browsers have it; Node's types have none by that name. */
  interface Worker {
    readonly resourceLimits?: object;
  }
}

/**
 * Deleting in several directories at a time is what makes a disk fast. On ext4 that discards what is freed, on two CPUs, six took
 * nine tenths of the time that four did, but twice as much was added to the latency of small work beside; in memory all took
 * the same.
 */
export const TREE_THREADS = 4;
/**
 * On ext4 that discards what is freed, beside a PostgreSQL on the same disk, eight delete 4 KiB files 1.1 to 1.24 times as fast as four
 * (two CPUs, `npm run bench:files`); twelve, no faster. Each that is kept busy takes some 15 MB.
 */
const QUICK_THREADS = 8;

/**
 * Memory that a thread may fill, in MB, before what it no longer needs is looked for. Left to itself, each of them takes 150 MB
 * for a million directories, with nothing in it that lasts; with this, 50 MB and no more time.
 */
const YOUNG = 16;

/** How long a thread is kept that has nothing to do, in ms. One of each kind always is. */
const IDLE = 30_000;

/**
 * Threads of one root that hang in a system call and have been given up. Each holds some memory until the kernel lets it
 * go.
 */
const MOST_HANGING = 16;

/** How long `endThreads` waits for threads to end, in ms: those that do not hang take a few. */
const PATIENCE = 1_000;

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

/** The process ends: nothing is begun any more. */
let ending = false;

/** All threads of this process that have not ended, idle ones and those of closed pools too. */
const alive = new Set<TinypoolWorker>();

/**
 * Ends all threads, and tells whether they have ended. Node cannot end a process while one of its threads hangs in the
 * kernel: `process.exit` would wait for it without end, and do nothing else.
 */
export async function endThreads(): Promise<boolean> {
  shared?.close();
  ending = true;
  for (const end = performance.now() + PATIENCE; alive.size > 0 && performance.now() < end; ) {
    await new Promise(resolve => setTimeout(resolve, 5));
  }
  return alive.size === 0;
}

export class Threads {
  readonly #crews = new Map<string, Crew>();
  readonly #worker: string;

  constructor(worker = WORKER) {
    this.#worker = worker;
  }

  /**
   * Has an order carried out by threads of its root.
   * @throws StorageError that the thread has classified; of kind `unavailable` when too many of them hang.
   */
  run<W extends keyof Orders>(
    lane: Lane,
    what: W,
    order: Parameters<Orders[W]>[0],
    options: RunOptions = {},
  ): Promise<ValueOf<W>> {
    if (ending) return Promise.reject(new Stopped('the process ends'));
    const { root } = order.place;
    const crew = this.#crews.get(root) ?? new Crew(this.#worker);
    this.#crews.set(root, crew);
    return crew.run(lane, what, order, options);
  }

  /** Threads for trees of a root that have nothing to do. */
  freeForTrees(root: string): number {
    return Math.max(0, TREE_THREADS - (this.#crews.get(root)?.trees ?? 0));
  }

  /** Threads of a root that were given up and hang in a system call. */
  hangingIn(root: string): number {
    return this.#crews.get(root)?.hanging ?? 0;
  }

  /** Ends all threads; those that hang are left. */
  close(): void {
    for (const crew of this.#crews.values()) crew.close();
    this.#crews.clear();
  }
}

interface RunOptions {
  readonly signal?: AbortSignal;
  readonly stop?: () => void;
}

/** The threads of one root. */
class Crew {
  readonly #lanes = new Map<Lane, Tinypool>();
  /** All that have not ended: those of the pools, and those that have been given up. */
  readonly #alive = new Set<TinypoolWorker>();
  /** Orders of trees that have been given and not carried out. */
  trees = 0;
  #closed = false;
  readonly #worker: string;

  constructor(worker: string) {
    this.#worker = worker;
  }

  /**
   * Has an order carried out. When the signal is aborted, the order is taken back: by `stop`, which is to reach a thread
   * at work, and by ending the thread, which takes effect when its system call comes back. Another takes its place.
   */
  async run<W extends keyof Orders>(
    lane: Lane,
    what: W,
    order: Parameters<Orders[W]>[0],
    { signal, stop }: RunOptions,
  ): Promise<ValueOf<W>> {
    if (stop) signal?.addEventListener('abort', stop, { once: true });
    if (lane === 'trees') this.trees += 1;
    try {
      const answer = await this.#carryOut<Answer<ValueOf<W>>>(lane, what, order, signal);
      if ('failure' in answer) throw new ThreadFailure(answer.failure);
      return answer.value;
    } finally {
      if (lane === 'trees') this.trees -= 1;
      if (stop) signal?.removeEventListener('abort', stop);
    }
  }

  async #carryOut<T>(lane: Lane, what: string, order: unknown, signal?: AbortSignal): Promise<T> {
    const pool = this.#poolOf(lane);
    for (;;) {
      if (this.hanging >= MOST_HANGING) {
        throw new StorageError(
          'unavailable',
          `${this.hanging} storage calls have not come back: expected the disk to answer, and none is begun before it does`,
        );
      }
      const running = pool.run(order, { name: what, ...(signal && { signal }) });
      this.#count(pool);
      try {
        return (await running) as T;
      } catch (error) {
        if (!wasEnded(error) || this.#closed || signal?.aborted) throw error;
      }
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

  close(): void {
    this.#closed = true;
    for (const pool of this.#lanes.values()) {
      this.#count(pool);
      void pool.destroy();
    }
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
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG },
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
      alive.add(thread);
      thread.once('exit', () => {
        this.#alive.delete(thread);
        alive.delete(thread);
      });
    }
  }
}

/**
 * Whether an order was given to a thread that was about to be ended: Tinypool (2.2.0) gives those that wait to any thread that answers,
 * be it one that was given up and came back in that moment. It has ended by the time this is told, perhaps with the order carried out:
 * another carries it out again, and what the first has deleted stands in the memory of the order.
 */
function wasEnded(error: unknown): boolean {
  return error instanceof Error && error.message === 'Terminating worker thread';
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
