/**
 * The contract between the reconciler and what deletes: a batch of cleanups of one store in, one result for each out.
 *
 * A handler knows one scheme. It knows nothing of PostgreSQL, retries, backoff or leases: it asks its context before
 * every storage call, and says truthfully what became of each target.
 */
import type { Target } from '../target.ts';

/** One target to delete. */
export interface Cleanup {
  readonly id: string;
  readonly target: Target;
  /** The configured root that the target lies strictly inside. */
  readonly root: string;
  /** Levels of parent directories to remove if they are empty afterwards; 0 for stores without directories. */
  readonly pruneParents: number;
  /** Attempts that have failed so far. */
  readonly attempt: number;
  /**
   * When it was first due, on the clock of `performance.now()`. Left out where nobody knows: then nothing is decided by
   * it, and what may be younger than the cleanup stays.
   */
  readonly dueSince?: number;
}

/** What one run has deleted; never more than the truth. */
export interface Receipt {
  /** Files and symlinks, or objects. Directories do not count. */
  readonly objects: number;
  /** Bytes freed; null where the storage does not tell. */
  readonly bytes: number | null;
}

/** What became of one cleanup. */
export type Result =
  /**
   * `deleted`: gone, by this run. `absent`: it was already gone, which is success.
   * `yielded`: unfinished, because its time slice ended or the daemon stops; to be gone on with later.
   */
  | (Receipt & { readonly outcome: 'deleted' | 'absent'; readonly note?: string })
  | (Receipt & {
      readonly outcome: 'yielded';
      readonly note?: string;
      /** Whether it has come any further; default: whether it has deleted objects. A slice without progress costs an attempt. */
      readonly progressed?: boolean;
    })
  /**
   * `retry`: may succeed later. `blocked`: not now, no fault of its own. `dead`: no retry can mend it.
   * `unavailable`: the store does not answer; counts against the store, not against the cleanup.
   * `wrong_root`: the root is not the disk that was recorded; pauses the store until it is.
   */
  | (Receipt & {
      readonly outcome: 'retry' | 'blocked' | 'dead' | 'unavailable' | 'wrong_root';
      readonly error: string;
    });

/** Nothing deleted. */
export const NOTHING: Receipt = { objects: 0, bytes: null };

/** What a handler may ask of whoever calls it. Every storage call goes through `call`. */
export interface Context {
  /**
   * Runs one storage call: waits for one of the store's slots, makes sure that the worker still has its lease, and
   * ends the call after the storage timeout (the signal is aborted; a call that ignores it is left behind).
   * Never call it within itself: with one slot, the inner call would wait for the outer one for ever.
   * @throws Stopped when the work must end before this call.
   * @throws StorageError of kind `unavailable` when the call takes too long.
   */
  call<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T>;
  /** True when a cleanup that can yield should: its time slice is used up, or the daemon stops. */
  shouldYield(): boolean;
  /** Tells how far a cleanup has come in this run, so that it is not forgotten if the worker vanishes. */
  progress(id: string, receipt: Receipt): void;
  /** The identity recorded for a root; undefined for schemes without one. */
  identity(root: string): string | undefined;
}

/** Deletes what a scheme addresses. */
export interface Handler {
  /** What stands before `://`. */
  readonly scheme: string;
  /** Most cleanups in one batch; a tree or prefix always comes alone. */
  readonly batchSize: number;
  /**
   * Deletes a batch of one store and returns one result for each cleanup, in order. It is idempotent: what is
   * already gone is `absent`. What it throws counts for the whole batch.
   */
  delete(batch: readonly Cleanup[], context: Context): Promise<readonly Result[]>;
  /** Looks without touching: what would be deleted. */
  inspect(cleanup: Cleanup, context: Context): Promise<Inspection>;
  /**
   * Reads what identifies the storage under a root, e.g. the UUID in a file root's sentinel; `create` writes one if
   * there is none. Left out by schemes whose roots need none.
   * @throws StorageError of kind `wrong_root` when there is none, or the root cannot be reached.
   */
  identify?(root: string, options: { readonly create: boolean }): Promise<string>;
  /** Whether the storage under a root can be reached with what is configured. @throws StorageError why not. */
  probe(root: string, context: Context): Promise<void>;
  /** What a person should know of a root that can be reached, in words, e.g. that deletes there free no space. */
  advise?(root: string, context: Context): Promise<readonly string[]>;
  /** Releases what the handler holds. */
  close?(): Promise<void>;
}

/** What stands at a target. */
export interface Inspection extends Receipt {
  readonly exists: boolean;
  /** Why it would not be deleted, if so: the message that the dead row would have. */
  readonly problem?: string;
}

/** `transient`: try again. `permanent`: no retry can mend it. The others: see the results of the same name. */
export type StorageErrorKind = 'transient' | 'blocked' | 'permanent' | 'unavailable' | 'wrong_root';

/** A failure that a handler has classified. Its message says what was tried, what came, and what to do. */
export class StorageError extends Error {
  override readonly name = 'StorageError';
  readonly kind: StorageErrorKind;

  constructor(kind: StorageErrorKind, message: string, options?: ErrorOptions) {
    super(message, options);
    this.kind = kind;
  }
}

/** Thrown by `Context.call` when no further storage call may be made: the daemon stops, or its lease is in doubt. */
export class Stopped extends Error {
  override readonly name = 'Stopped';
}

const OUTCOME_OF_KIND = {
  transient: 'retry',
  blocked: 'blocked',
  permanent: 'dead',
  unavailable: 'unavailable',
  wrong_root: 'wrong_root',
} as const satisfies Record<StorageErrorKind, Result['outcome']>;

/**
 * The result for something thrown, with what had been deleted before it. The one place where throws become outcomes:
 * what no handler has classified is retried.
 */
export function resultOf(error: unknown, receipt: Receipt = NOTHING): Result {
  try {
    if (error instanceof Stopped) return { ...receipt, outcome: 'yielded' };
    if (error instanceof StorageError && Object.hasOwn(OUTCOME_OF_KIND, error.kind)) {
      return { ...receipt, outcome: OUTCOME_OF_KIND[error.kind], error: String(error.message) };
    }
    return { ...receipt, outcome: 'retry', error: describe(error) };
  } catch {
    return { ...receipt, outcome: 'retry', error: INDESCRIBABLE };
  }
}

function describe(error: unknown): string {
  if (error instanceof Error) return error.message === '' ? error.name : `${error.name}: ${error.message}`;
  return `something was thrown that is no Error: ${String(error)}`;
}

/** Some of what can be thrown throws by itself when it is looked at. */
const INDESCRIBABLE = 'something was thrown that cannot be described';

/** The message of what was thrown, whatever that is. */
export function messageOf(error: unknown): string {
  try {
    return String(error instanceof Error ? error.message : error);
  } catch {
    return INDESCRIBABLE;
  }
}
