/** Removing one directory entry, and what it frees. */
import { lstatSync, rmdirSync, type Stats, unlinkSync } from 'node:fs';
import type { Receipt } from '../contract.ts';
import { codeOf } from './errors.ts';
import type { Name, OpenFolder } from './folders.ts';

/** The file system always tells: no null here. */
export const NONE = { objects: 0, bytes: 0 } as const satisfies Receipt;

/** Entries that one storage call may cover: the lease and the store's rate are asked between calls, and progress told. */
export const ENTRIES_A_CALL = 2_000;

/**
 * How long one storage call goes on to its next entry, in milliseconds. Removing a file of many gigabytes takes
 * seconds: two thousand of them in one call would look like a storage that does not answer.
 */
export const CALL_BUDGET = 50;

/** Asked before each system call that changes something: whether whoever gave the order has taken it back. */
export type Stop = () => boolean;

/** Thrown when an order was taken back. */
export class Recalled extends Error {
  override readonly name = 'Recalled';
}

/** When a storage call should make an end: after so many entries or so long, or at once when it is taken back. */
export class Budget {
  readonly #stop: Stop;
  readonly #start = performance.now();
  #end: number;
  #done = 0;

  constructor(stop: Stop, ms = CALL_BUDGET) {
    this.#stop = stop;
    this.#end = this.#start + ms;
  }

  /** Whether one more entry may be begun. The first always may, however late, or nothing would ever get further. */
  get goesOn(): boolean {
    if (this.#stop()) return false;
    return this.#done === 0 || (this.#done < ENTRIES_A_CALL && performance.now() < this.#end);
  }

  /** Lets it take so long in all, in ms. */
  extend(ms: number): void {
    this.#end = Math.max(this.#end, this.#start + ms);
  }

  /** Says that an entry has been done with. */
  count(): void {
    this.#done += 1;
  }

  /** Time that each entry took, in ms. */
  get pace(): number {
    return this.elapsed / Math.max(1, this.#done);
  }

  /** Time since its beginning, in ms. */
  get elapsed(): number {
    return performance.now() - this.#start;
  }
}

/** What stands at a path through an open directory (`OpenFolder.entry`); undefined when nothing does. No link is followed. */
export function look(path: string | Buffer): Stats | undefined {
  return lstatSync(path, { throwIfNoEntry: false });
}

/**
 * Unlinks what `look` has found, and is no directory. Undefined when somebody else was faster.
 *
 * Asked at the last moment: a call that hung, was given up and comes back later may no longer delete. Another worker
 * has meanwhile done its work, and what stands there now may be new.
 */
export function unlinkFound(path: string | Buffer, found: Stats, stop: Stop): number | undefined {
  if (stop()) throw new Recalled();
  try {
    unlinkSync(path);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw error;
  }
  return bytesFreed(found);
}

/** Bytes that removing it frees: none while another hard link holds them; sparse files hold fewer than their size. */
export function bytesFreed(found: Stats): number {
  return found.isFile() && found.nlink === 1 ? found.blocks * 512 : 0;
}

/** Removes an empty directory; false when it was not there. @throws ENOTEMPTY and its kin. */
export function removeFolder(open: OpenFolder, name: Name, stop: Stop): boolean {
  if (stop()) throw new Recalled();
  try {
    rmdirSync(open.entry(name));
    return true;
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return false;
    throw error;
  }
}
