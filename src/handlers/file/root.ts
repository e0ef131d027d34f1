/**
 * The mark of a root: `.afterdelete-root`, a file with a UUID.
 *
 * A disk that is not mounted looks empty, and "not found" would settle every cleanup as already gone. So nothing is
 * deleted, and nothing is called absent, unless the mark is there and is the recorded one.
 *
 * Whatever is wrong with the root itself is `wrong_root`, which pauses the store, and never a reason to give up on a
 * cleanup: it is no fault of the row's.
 */
import { randomUUID } from 'node:crypto';
import {
  accessSync,
  closeSync,
  constants,
  fsyncSync,
  linkSync,
  openSync,
  readSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { ROOT_SENTINEL } from '../../target.ts';
import { StorageError } from '../contract.ts';
import { classify, codeOf, quotePath, reason } from './errors.ts';
import type { Folders, OpenFolder } from './folders.ts';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** More than a UUID and white space take; what is longer is none. */
const MOST_BYTES = 256;

/** Why a root could not be opened. */
export function unreachableRoot(error: unknown, root: string, path: string): unknown {
  const code = codeOf(error);
  if (code === undefined) return error;
  if (code === 'ENOENT' || code === 'ENOTDIR') {
    const found = code === 'ENOENT' ? 'nothing' : 'something that is no directory';
    return new StorageError(
      'wrong_root',
      `the root ${root} is missing: expected a directory at ${quotePath(path)}, found ${found}. ` +
        'Mount the disk that belongs there, or take the root out of the configuration.',
      { cause: error },
    );
  }
  return ofRoot(classify(error, `open the root ${root} at`, path));
}

/** Reads the mark through the open root. @throws StorageError of kind `wrong_root` when there is no valid one. */
export function readMark(open: OpenFolder, folders: Folders, root: string): string {
  const text = readText(open, folders);
  if (text === undefined) {
    throw new StorageError(
      'wrong_root',
      `the root ${root} has no mark: expected a UUID in ${markPath(folders)}, found no such file. ` +
        `Nothing was touched. ${remedy(root)}`,
    );
  }
  const mark = text.trim().toLowerCase();
  if (!UUID.test(mark)) {
    const found = text === '' ? 'an empty file' : quotePath(text.slice(0, 80));
    throw new StorageError(
      'wrong_root',
      `the root ${root} has no valid mark: expected a UUID in ${markPath(folders)}, found ${found}. ` +
        'Nothing was touched. If this is the right disk, remove that file, then run: ' +
        `afterdelete check --adopt ${root}`,
    );
  }
  return mark;
}

/** Makes sure that the root is the disk that was recorded. @throws StorageError of kind `wrong_root` if not. */
export function verifyMark(
  open: OpenFolder,
  folders: Folders,
  root: string,
  recorded: string | undefined,
): void {
  if (recorded === undefined) {
    throw new StorageError(
      'wrong_root',
      `nothing is recorded for the root ${root}: expected the UUID of ${markPath(folders)} in the database. ` +
        `Nothing was touched. Start a daemon that serves it, or run: afterdelete check --adopt ${root}`,
    );
  }
  const found = readMark(open, folders, root);
  if (found === recorded.toLowerCase()) return;
  throw new StorageError(
    'wrong_root',
    `the root ${root} is not the disk it was: expected ${recorded} in ${markPath(folders)}, found ${found}. ` +
      `Nothing was touched. ${remedy(root)}`,
  );
}

/**
 * Reads the mark, or writes one if there is none. Any number of daemons may do so at the same time: link(2) lets one
 * of them win, with a file that is complete from its first moment, and all return the winner's.
 */
export function readOrWriteMark(open: OpenFolder, folders: Folders, root: string): string {
  if (readText(open, folders) === undefined) writeMark(open, folders, root);
  return readMark(open, folders, root);
}

/** Whether the daemon may list, add to and remove from the root. */
export function probeRoot(open: OpenFolder, folders: Folders, root: string): void {
  try {
    accessSync(open.path, constants.R_OK | constants.W_OK | constants.X_OK);
  } catch (error) {
    throw classify(error, `use the root ${root}: list, write and search`, folders.root.path());
  }
}

function writeMark(open: OpenFolder, folders: Folders, root: string): void {
  const mark = randomUUID();
  const draft = open.entry(`${ROOT_SENTINEL}.${mark}`);
  const goal = open.entry(ROOT_SENTINEL);
  try {
    writeNew(draft, mark);
    try {
      linkSync(draft, goal);
    } catch (error) {
      const code = codeOf(error);
      if (code === 'EEXIST') return;
      // File systems without hard links (FAT, some network mounts). A reader may then find it empty for a moment,
      // which is `wrong_root`, and looked at again.
      if (code !== 'EPERM' && code !== 'ENOTSUP' && code !== 'EOPNOTSUPP' && code !== 'ENOSYS') throw error;
      writeNew(goal, mark);
    }
    syncFolder(open);
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return;
    throw classify(error, `mark the root ${root} with`, folders.root.path(ROOT_SENTINEL));
  } finally {
    remove(draft);
  }
}

/** A draft that is left behind does no harm. */
function remove(draft: string | Buffer): void {
  try {
    unlinkSync(draft);
  } catch {}
}

function writeNew(path: string | Buffer, mark: string): void {
  const file = openSync(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o644);
  try {
    writeSync(file, `${mark}\n`);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

/** Makes the mark's name survive a power failure, where the file system can: the database will record it. */
function syncFolder(folder: OpenFolder): void {
  const file = openSync(folder.path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(file);
  } catch {
  } finally {
    closeSync(file);
  }
}

/** What stands in the mark, or undefined when there is none. A link is none: its goal may be on another disk. */
function readText(folder: OpenFolder, folders: Folders): string | undefined {
  let file: number | undefined;
  try {
    // Without O_NONBLOCK, a FIFO of that name would block the thread for ever.
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK;
    file = openSync(folder.entry(ROOT_SENTINEL), flags);
    const buffer = Buffer.allocUnsafe(MOST_BYTES);
    return buffer.toString('utf8', 0, readSync(file, buffer, 0, MOST_BYTES, 0));
  } catch (error) {
    const code = codeOf(error);
    if (code === 'ENOENT') return undefined;
    if (code === 'ELOOP') return '(a symbolic link)';
    // A FIFO cannot be read at a position, a socket not be opened at all.
    if (code === 'EISDIR' || code === 'ESPIPE' || code === 'ENXIO')
      return `(no file: ${reason(error, code)})`;
    throw ofRoot(classify(error, 'read the mark', folders.root.path(ROOT_SENTINEL)));
  } finally {
    if (file !== undefined) closeSync(file);
  }
}

/** No failure at the root may end a cleanup for good. */
function ofRoot(error: unknown): unknown {
  if (!(error instanceof StorageError) || error.kind !== 'permanent') return error;
  return new StorageError('wrong_root', error.message, { cause: error });
}

function markPath(folders: Folders): string {
  return quotePath(folders.root.path(ROOT_SENTINEL));
}

function remedy(root: string): string {
  return (
    'Mount the disk that belongs there; or, if what is there now is right, record it with: ' +
    `afterdelete check --adopt ${root}`
  );
}
