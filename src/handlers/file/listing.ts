/** The names in a directory, one after the other: a directory of ten million files must not have to fit in memory. */
import { type Dir, type Dirent, opendirSync } from 'node:fs';
import { type Name, nameOf, type OpenFolder } from './folders.ts';

/**
 * Node's documentation and code know this encoding for `opendir`, as for `readdir`; its types do not. Not `latin1`,
 * which would give the same names: where a file system does not tell an entry's type, Node itself calls lstat with
 * the name, and would encode it as UTF-8.
 */
const BYTES = 'buffer' as BufferEncoding;

/** Entries that are read ahead. */
const AHEAD = 256;

export interface Entry {
  readonly name: Name;
  readonly isFolder: boolean;
}

/** Goes through a directory as it stands, by a descriptor of its own. */
export function* entriesOf(folder: OpenFolder): Generator<Entry, void> {
  const dir: Dir = opendirSync(folder.path, { encoding: BYTES, bufferSize: AHEAD });
  try {
    for (let entry = read(dir); entry; entry = read(dir)) {
      yield { name: nameOf(entry.name as unknown as Uint8Array), isFolder: entry.isDirectory() };
    }
  } finally {
    dir.closeSync();
  }
}

function read(dir: Dir): Dirent | null {
  for (;;) {
    try {
      return dir.readSync();
    } catch (error) {
      // Where the file system tells no types, Node looks at each entry, and this one was gone by then.
      if ((error as NodeJS.ErrnoException).syscall === 'lstat') continue;
      throw error;
    }
  }
}
