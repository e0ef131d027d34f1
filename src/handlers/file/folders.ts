/**
 * Directories below a root, and how they are reached.
 *
 * Whoever deletes by path alone can be led astray: between the check and the unlink, somebody swaps a directory for a
 * symbolic link (CVE-2022-21658 and its kin). So everything here is addressed by the directory that holds it, which
 * is opened, checked and held while something is done in it: see `pinned.ts`, and `plain.ts` for systems where that
 * is not possible.
 */
import { StorageError } from '../contract.ts';
import { quotePath } from './errors.ts';

/*
 * All of this is synchronous, and runs in threads of its own (`threads.ts`): a system call then costs a few
 * microseconds, where a promise for each would cost several times as much, and the daemon's event loop is left alone.
 */

/**
 * The name of a directory entry, one character a byte (latin1). A name need not be valid UTF-8, and what is decoded
 * cannot be encoded again to the same bytes; this can, and is smaller than a Buffer a name.
 */
export type Name = string;

export function nameOf(bytes: Uint8Array): Name {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1');
}

/** The names that a path consists of, without the empty ones at its ends. */
export function namesOf(path: string): Name[] {
  const names = (ASCII.test(path) ? path : nameOf(Buffer.from(path))).split('/');
  if (names.at(-1) === '') names.pop();
  if (names[0] === '') names.shift();
  return names;
}

export function bytesOf(name: Name): Buffer {
  return Buffer.from(name, 'latin1');
}

/** A path of bytes as the system calls of Node take it. Plain ASCII is the same in any encoding, and faster as a string. */
export function pathOf(path: Name): string | Buffer {
  return ASCII.test(path) ? path : bytesOf(path);
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: a name may contain any byte but NUL and the slash.
export const ASCII = /^[\x01-\x7f]*$/;

/** A directory below a root, as an address: it says nothing about whether it is there. */
export class Folder {
  /** Undefined for the root alone. */
  readonly parent: Folder | undefined;
  readonly name: Name;
  /** Steps from the root; 0 for the root itself. */
  readonly depth: number;

  constructor(parent: Folder | undefined, name: Name) {
    this.parent = parent;
    this.name = name;
    this.depth = parent ? parent.depth + 1 : 0;
  }

  /** Its path, or that of something in it, for messages only: undecodable bytes are replaced. */
  path(name?: Name): string {
    const names = name === undefined ? [] : [name];
    for (let at: Folder | undefined = this; at; at = at.parent) names.push(at.name);
    return bytesOf(names.reverse().join('/')).toString('utf8') || '/';
  }

  /** The steps from below the root down to this directory. */
  steps(): Folder[] {
    const steps: Folder[] = [];
    for (let at: Folder = this; at.parent; at = at.parent) steps.push(at);
    return steps.reverse();
  }

  /** The names of the steps from below the root: what can be told to another thread. */
  address(): Name[] {
    return this.steps().map(step => step.name);
  }
}

/** Makes Folders of addresses, the same for the same: those in one directory share it, and so its descriptor. */
export class FolderTree {
  readonly root: Folder;
  readonly #below = new Map<Folder, Map<Name, Folder>>();

  constructor(root: Folder) {
    this.root = root;
  }

  at(address: readonly Name[]): Folder {
    let folder = this.root;
    for (const name of address) {
      const below = this.#below.get(folder) ?? new Map<Name, Folder>();
      this.#below.set(folder, below);
      const next: Folder = below.get(name) ?? new Folder(folder, name);
      below.set(name, next);
      folder = next;
    }
    return folder;
  }
}

/** A directory that is held open (or, where that is not possible, has just been looked at). */
export interface OpenFolder {
  /** A path that leads to the directory itself. Good only while it is open. */
  readonly path: string | Buffer;
  /** A path that leads to an entry through the directory. Good only while it is open. */
  entry(name: Name): string | Buffer;
}

/** The directories of one root, for the time of one storage call. */
export interface Folders {
  readonly root: Folder;
  /**
   * Opens a directory step by step from the root, following no link and crossing no mount, and runs something in it.
   * @throws Unreachable when a step is not a directory of the root's own file system.
   * @throws StorageError when a step cannot be opened, of kind `wrong_root` when the root cannot.
   */
  use<T>(folder: Folder, work: (open: OpenFolder) => T): T;
  /** Says that a directory will not be needed again. */
  forget(folder: Folder): void;
  /** Lets go of everything. */
  close(): void;
}

/** A step on the way to a directory was not a directory that may be entered. */
export class Unreachable extends Error {
  override readonly name = 'Unreachable';
  readonly folder: Folder;
  readonly found: 'nothing' | 'file' | 'symlink' | 'mount';

  constructor(folder: Folder, found: Unreachable['found']) {
    super(`${quotePath(folder.path())} is no directory that may be entered: found ${found}`);
    this.folder = folder;
    this.found = found;
  }

  /** Nothing can stand below what is not there, or is a file. */
  get absent(): boolean {
    return this.found === 'nothing' || this.found === 'file';
  }

  /** The failure of a cleanup for this reason, in words for a person. */
  refusal(target: string): StorageError {
    const step = quotePath(this.folder.path());
    if (this.found === 'mount') {
      return new StorageError(
        'permanent',
        `${step} is a mount point: expected a directory of the root's own file system, ` +
          'found another file system, and nothing in it was touched. ' +
          'Unmount it, or make it a root of its own.',
      );
    }
    return new StorageError(
      'permanent',
      `${step} is a symbolic link: expected a directory on the way to ${target}, and links are never followed. ` +
        'Nothing was touched. Name the target by its real path, inside a root.',
    );
  }
}
