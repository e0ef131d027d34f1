/**
 * What the daemon's thread and the threads that delete say to each other. An order is one storage call; what it does is
 * also written down in memory that both share, because a thread that hangs in a system call never answers.
 */
import { type Result, StorageError, type StorageErrorKind } from '../contract.ts';
import { classify, isStoreDown } from './errors.ts';
import type { Name } from './folders.ts';

/** A root, and how it is entered. */
export interface Place {
  /** As configured. */
  readonly root: string;
  readonly pinned: boolean;
  /** The UUID that its mark must have. Compared with every order, through the very descriptor that is then used. */
  readonly recorded: string | undefined;
}

/** A directory, as the names of the steps from the root. */
export type Address = readonly Name[];

/** A failure as data: an Error that is sent to another thread loses what it was. */
export interface Failure {
  readonly kind: StorageErrorKind;
  readonly message: string;
  /** Going on with other files of the same store is of no use. */
  readonly storeDown: boolean;
}

/** What is thrown that is no failure of the storage is a bug, and let through. */
export function failureOf(error: unknown, tried: string, path: string): Failure {
  const classified = classify(error, tried, path);
  if (!(classified instanceof StorageError)) throw error;
  return { kind: classified.kind, message: classified.message, storeDown: isStoreDown(classified) };
}

export type Answer<T> = { readonly value: T } | { readonly failure: Failure };

/** Single files of one directory. */
export interface Group {
  readonly address: Address;
  /** With a slash between them: one text is sent to another thread at a fraction of what hundreds cost. */
  readonly names: string;
}

export interface SinglesOrder {
  readonly place: Place;
  readonly groups: readonly Group[];
  readonly memory: SharedArrayBuffer;
}

/** What became of the nth name. What was deleted stands in the memory of the order; what stands nowhere was not come to. */
export type SinglesAnswer = ReadonlyMap<number, Result>;

/** How far a directory of a tree has come. */
export interface Progress {
  /** `list`: its files are to be deleted and its directories to be found; `remove`: they are gone, and it should go. */
  phase: 'list' | 'remove';
  /**
   * Files in it that could not be deleted. They stand before all others in the next listing, because a file system
   * lists what remains in the order it had: so many are passed by, and need not be remembered by name.
   */
  keptFiles: number;
  /** The same for directories. */
  keptFolders: number;
  /** Something in it could not be deleted, so that it cannot be removed. */
  spoiled: boolean;
  /** It has more directories than are dealt with at a time: it is listed once more. */
  more: boolean;
  /** Times that it was listed because it was found not to be empty after all. */
  passes: number;
}

export const UNTOUCHED: Progress = {
  phase: 'list',
  keptFiles: 0,
  keptFolders: 0,
  spoiled: false,
  more: false,
  passes: 1,
};

/**
 * A directory of a tree to go on with, or one that waits for it alone, and can be gone on with then: without those,
 * going up a chain of a thousand levels would take a thousand calls.
 */
export interface Item extends Readonly<Progress> {
  /** The item that it is in, which stands before it; -1 for none. */
  readonly up: number;
  /** Where it is, from that item, or from the root. */
  readonly address: Address;
  readonly share?: Share;
}

/** One of several threads that delete the files of one directory: each those whose names fall to it. */
export interface Share {
  readonly n: number;
  readonly of: number;
  /** Files that could not be deleted before it was shared out: the first of all. */
  readonly after: number;
}

export interface WalkOrder {
  readonly place: Place;
  readonly items: readonly Item[];
  /** Only looks what the target is, and goes on if it is a directory. */
  readonly first: boolean;
  readonly memory: SharedArrayBuffer;
  /** Where in the memory it counts. */
  readonly lane: number;
  /** How long it may take, in ms, up to its last system call. */
  readonly ms: number;
}

/** A directory that is left to go on with. */
export interface Left extends Readonly<Progress> {
  /** Which item it is; -1 if it was found on the way. */
  readonly item: number;
  /** What it is in, by its place among those that are left; -1 for what is not left or was not an item. */
  readonly up: number;
  readonly name: Name;
}

export interface WalkAnswer {
  /** What the target itself was, if it is no directory. */
  readonly early?: Result;
  readonly left: readonly Left[];
  /** The items that are done with. */
  readonly ended: readonly Ended[];
  readonly failures: number;
  readonly worst: Failure | undefined;
  /** Time that an entry took, in ms. */
  readonly pace: number;
}

export interface Ended extends Readonly<Pick<Progress, 'keptFiles' | 'spoiled'>> {
  readonly item: number;
}

export interface PruneOrder {
  readonly place: Place;
  readonly folders: readonly Address[];
  readonly memory: SharedArrayBuffer;
}

/** One for each directory, in order: whether it is gone, or why it is not known; undefined if not come to. */
export type PruneAnswer = readonly (boolean | Failure | undefined)[];

export interface InspectOrder {
  readonly place: Place;
  /** Which inspection to go on with. */
  readonly id: string;
  /** Nobody wants to know any more. */
  readonly forget?: boolean;
  /** To begin with. */
  readonly target?: { readonly address: Address; readonly name: Name; readonly tree: boolean };
}

/** As long as a retry may get further, the tree is retried; what is left then is what no retry can mend. */
export function gravity({ kind }: Pick<Failure, 'kind'>): number {
  return ['permanent', 'transient', 'unavailable', 'wrong_root'].indexOf(kind);
}
