/** The names in a directory, a few at a time: a directory of ten million files must not have to fit in memory. */
import type { Dir } from 'node:fs';
import { opendir } from 'node:fs/promises';
import { type Name, nameOf, type OpenFolder } from './folders.ts';
import { ENTRIES_A_CALL } from './remove.ts';

/**
 * Node's documentation and code know this encoding for `opendir`, as for `readdir`; its types do not. Not `latin1`,
 * which would give the same names: where a file system does not tell an entry's type, Node itself calls lstat with
 * the name, and would encode it as UTF-8.
 */
const BYTES = 'buffer' as BufferEncoding;

export class Listing {
  readonly #dir: Dir;

  private constructor(dir: Dir) {
    this.#dir = dir;
  }

  /** Keeps a descriptor of its own, so that it goes on in the same directory over several storage calls. */
  static async open(folder: OpenFolder, signal: AbortSignal): Promise<Listing> {
    const dir = await opendir(folder.path, { encoding: BYTES, bufferSize: ENTRIES_A_CALL });
    const listing = new Listing(dir);
    if (signal.aborted) listing.close();
    signal.throwIfAborted();
    return listing;
  }

  /** The next name, or undefined at the end. What it is, is not told: file systems need not know. */
  async next(): Promise<Name | undefined> {
    const entry = await this.#dir.read();
    return entry ? nameOf(entry.name as unknown as Uint8Array) : undefined;
  }

  /** Not waited for: behind a read that hangs, it would hang too. */
  close(): void {
    this.#dir.close().catch(() => {});
  }
}
