/** The names in a directory, one after the other: a directory of ten million files must not have to fit in memory. */
import { type Dir, Dirent, opendirSync } from 'node:fs';
import { type Name, nameOf, type OpenFolder } from './folders.ts';

/**
 * Gives names as they are kept here, and at half the cost of a Buffer each. Not where the file system does not tell an
 * entry's type: Node itself then calls lstat with the name, and would encode it as UTF-8.
 */
const NAMES = 'latin1';

/** Node's documentation and code know this encoding for `opendir`, as for `readdir`; its types do not. */
const BYTES = 'buffer' as BufferEncoding;

/** Entries that are read ahead. */
const AHEAD = 256;

export interface Entry {
  readonly name: Name;
  readonly isFolder: boolean;
}

/**
 * Goes through a directory as it stands, by a descriptor of its own. It is opened at once: whoever takes the entries later,
 * when the folder is closed, would be led to another directory, or to none.
 */
export function entriesOf(folder: OpenFolder): Generator<Entry, void> {
  const entries = opened(folder);
  // As far as its first yield: from here on it also closes what it has opened.
  entries.next();
  return entries as Generator<Entry, void>;
}

/** Yields nothing once the directory is open, then its entries. */
function* opened(folder: OpenFolder): Generator<Entry | undefined, void> {
  // Of a path of bytes, Node can only look at an entry whose name is bytes as well.
  const encoding = typeof folder.path === 'string' ? NAMES : BYTES;
  let dir: Dir = opendirSync(folder.path, { encoding, bufferSize: AHEAD });
  try {
    let entry = read(dir);
    if (entry === 'unknown' || (entry && entry.constructor !== Dirent)) {
      // No types are told: Node has looked at the first entries, perhaps by wrong names. Once more, by bytes.
      dir.closeSync();
      dir = opendirSync(folder.path, { encoding: BYTES, bufferSize: AHEAD });
      entry = read(dir);
    }
    yield undefined;
    for (; entry; entry = read(dir)) {
      // Without types, an entry that was gone by the time Node looked at it.
      if (entry === 'unknown') continue;
      const name: string | Uint8Array = entry.name;
      yield { name: typeof name === 'string' ? name : nameOf(name), isFolder: entry.isDirectory() };
    }
  } finally {
    dir.closeSync();
  }
}

function read(dir: Dir): Dirent | 'unknown' | null {
  try {
    return dir.readSync();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).syscall === 'lstat') return 'unknown';
    throw error;
  }
}
