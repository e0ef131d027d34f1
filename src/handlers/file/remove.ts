/** Removing one directory entry, and what it frees. */
import type { Stats } from 'node:fs';
import { lstat, rmdir, unlink } from 'node:fs/promises';
import type { Receipt } from '../contract.ts';
import { codeOf } from './errors.ts';
import type { Name, OpenFolder } from './folders.ts';

/** The file system always tells: no null here. */
export const NONE = { objects: 0, bytes: 0 } as const satisfies Receipt;

/** Entries that one storage call may cover: the lease is asked again between calls, and progress told. */
export const ENTRIES_A_CALL = 64;

/**
 * How long one storage call goes on to its next entry, in milliseconds. Removing a file of many gigabytes takes
 * seconds: sixty-four of them in one call would look like a storage that does not answer.
 */
const CALL_BUDGET = 250;

/** When a storage call should make an end: after so many entries or so long, or at once when it was given up. */
export function createBudget(signal: AbortSignal): () => boolean {
  const end = performance.now() + CALL_BUDGET;
  let entries = 0;
  return () => {
    entries += 1;
    return !signal.aborted && (entries === 1 || (entries <= ENTRIES_A_CALL && performance.now() < end));
  };
}

/** What stands at a name; undefined when nothing does. Links are not followed. */
export async function look(open: OpenFolder, name: Name): Promise<Stats | undefined> {
  try {
    return await lstat(open.entry(name));
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/**
 * Unlinks what `look` has found, and is no directory. Undefined when somebody else was faster.
 *
 * The signal is asked at the last moment: a call that hung, was given up and comes back later may no longer delete.
 * Another worker has meanwhile done its work, and what stands there now may be new.
 */
export async function unlinkFound(
  open: OpenFolder,
  name: Name,
  found: Stats,
  signal: AbortSignal,
): Promise<Receipt | undefined> {
  signal.throwIfAborted();
  try {
    await unlink(open.entry(name));
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return undefined;
    throw error;
  }
  return { objects: 1, bytes: bytesFreed(found) };
}

/** Bytes that removing it frees: none while another hard link holds them; sparse files hold fewer than their size. */
export function bytesFreed(found: Stats): number {
  return found.isFile() && found.nlink === 1 ? found.blocks * 512 : 0;
}

/** Removes an empty directory; false when it was not there. @throws ENOTEMPTY and its kin. */
export async function removeFolder(open: OpenFolder, name: Name, signal: AbortSignal): Promise<boolean> {
  signal.throwIfAborted();
  try {
    await rmdir(open.entry(name));
    return true;
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return false;
    throw error;
  }
}
