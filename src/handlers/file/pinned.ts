/**
 * Directories held by descriptors (Linux).
 *
 * Node has no openat(2), but `/proc/self/fd/N/child` is resolved from the open directory N, whatever has become of
 * the path by which it was opened. Each step is opened from the one before with O_PATH | O_DIRECTORY | O_NOFOLLOW, so that a
 * directory that is swapped for a link at any moment is either still the old one or an error, never the link's goal.
 *
 * Descriptors belong to the one thread that has opened them: were one closed while another thread is at it, its number
 * would be given to another directory, and things would be deleted there.
 */
import { closeSync, constants, fstatSync, lstatSync, openSync, readlinkSync, readSync } from 'node:fs';
import { StorageError } from '../contract.ts';
import { classify, codeOf } from './errors.ts';
import {
  ASCII,
  bytesOf,
  Folder,
  type Folders,
  type Name,
  nameOf,
  type OpenFolder,
  Unreachable,
} from './folders.ts';
import { unreachableRoot } from './root.ts';

/**
 * Directories kept open for the next use. Going up a chain of a thousand levels, those let go of are opened again
 * from the nearest one still open, a stretch at a time.
 */
const KEPT_OPEN = 128;

/**
 * O_PATH, which Node does not name; the same number on all that Linux runs Node on. A directory that may be searched but
 * not listed is on the way to many a file: it can be held all the same.
 */
const HOLD = 0o10000000 | constants.O_DIRECTORY;

/** Whether this system has what it takes. */
export function canPin(): boolean {
  return process.platform === 'linux' && PROCESS !== undefined;
}

/**
 * `/proc/self` is a link to the process's own directory: looked up once, it is a fifth less work in each of millions of
 * paths. What procfs says is taken, and not `process.pid`: it may be mounted from outside of a container, which counts
 * processes otherwise.
 */
const PROCESS = processDirectory();

function processDirectory(): string | undefined {
  try {
    return `/proc/${readlinkSync('/proc/self')}`;
  } catch {
    return undefined;
  }
}

/** An open directory. */
class Pin implements OpenFolder {
  readonly fd: number;
  /** What tells one file system, and one mount of it, from another. */
  readonly mount: string;
  readonly path: string;
  readonly #below: string;

  constructor(fd: number, mount: string) {
    this.fd = fd;
    this.mount = mount;
    this.path = `${PROCESS}/fd/${fd}`;
    this.#below = `${this.path}/`;
  }

  entry(name: Name): string | Buffer {
    return ASCII.test(name) ? this.#below + name : bytesOf(this.#below + name);
  }

  close(): void {
    close(this.fd);
  }
}

export class PinnedFolders implements Folders {
  readonly root: Folder;
  readonly #rootPath: string;
  readonly #uri: string;
  /** In the order of their last use, so that the first is the one to let go of. */
  readonly #pins = new Map<Folder, Pin>();
  #inUse: Pin | undefined;

  /** @param uri the root as configured, for messages; @param path where it is, without a slash at its end. */
  constructor(uri: string, path: string) {
    this.#uri = uri;
    this.#rootPath = path;
    this.root = new Folder(undefined, nameOf(Buffer.from(path)));
  }

  use<T>(folder: Folder, work: (open: OpenFolder) => T): T {
    if (this.#inUse) throw new Error('one directory at a time');
    try {
      this.#inUse = this.#pin(folder);
      return work(this.#inUse);
    } finally {
      this.#inUse = undefined;
    }
  }

  forget(folder: Folder): void {
    const pin = this.#pins.get(folder);
    if (!pin) return;
    if (pin === this.#inUse) throw new Error('a directory is let go of after its use');
    this.#pins.delete(folder);
    pin.close();
  }

  close(): void {
    for (const folder of [...this.#pins.keys()]) this.forget(folder);
  }

  #pin(folder: Folder): Pin {
    const missing: Folder[] = [];
    let at: Folder = folder;
    while (at.parent && !this.#pins.has(at)) {
      missing.push(at);
      at = at.parent;
    }
    let pin = this.#kept(at) ?? this.#keep(at, this.#openRoot());
    for (const step of missing.reverse()) pin = this.#keep(step, openStep(pin, step));
    return pin;
  }

  #kept(folder: Folder): Pin | undefined {
    const pin = this.#pins.get(folder);
    if (pin && folder.parent) {
      this.#pins.delete(folder);
      this.#pins.set(folder, pin);
    }
    return pin;
  }

  /** The one just opened is the last, so that it is never the one let go of; nor is the root, the first. */
  #keep(folder: Folder, pin: Pin): Pin {
    this.#pins.set(folder, pin);
    if (this.#pins.size > KEPT_OPEN) {
      for (const oldest of this.#pins.keys()) {
        if (!oldest.parent) continue;
        this.forget(oldest);
        break;
      }
    }
    return pin;
  }

  /** The root is what the operator configured: links in its own path and at its end are followed. */
  #openRoot(): Pin {
    try {
      return pinOf(openSync(this.#rootPath || '/', HOLD));
    } catch (error) {
      throw unreachableRoot(error, this.#uri, this.#rootPath || '/');
    }
  }
}

function openStep(parent: Pin, step: Folder): Pin {
  const path = parent.entry(step.name);
  let pin: Pin;
  try {
    pin = pinOf(openSync(path, HOLD | constants.O_NOFOLLOW));
  } catch (error) {
    throw whyNot(error, path, step);
  }
  if (pin.mount !== parent.mount) {
    pin.close();
    throw new Unreachable(step, 'mount');
  }
  return pin;
}

/** Takes the descriptor over: it is closed when this fails. */
function pinOf(fd: number): Pin {
  try {
    const { dev } = fstatSync(fd, { bigint: true });
    return new Pin(fd, `${dev} ${mountId(fd)}`);
  } catch (error) {
    close(fd);
    throw error;
  }
}

const info = Buffer.allocUnsafe(512);

/**
 * The mount that a descriptor was opened through. The device alone does not tell a bind mount of the same file
 * system.
 */
function mountId(fd: number): string {
  const file = openSync(`${PROCESS}/fdinfo/${fd}`, constants.O_RDONLY);
  try {
    const text = info.toString('latin1', 0, readSync(file, info, 0, info.length, 0));
    return /^mnt_id:\s*(\d+)/m.exec(text)?.[1] ?? '';
  } finally {
    close(file);
  }
}

/** There is nothing to do about a close that fails, and the descriptor is gone all the same. */
function close(fd: number): void {
  try {
    closeSync(fd);
  } catch {}
}

function whyNot(error: unknown, path: string | Buffer, step: Folder): unknown {
  const code = codeOf(error);
  if (code === 'ENOENT') return new Unreachable(step, 'nothing');
  // A link is ENOTDIR with O_DIRECTORY on Linux, and ELOOP without: only a look tells.
  if (code !== 'ENOTDIR' && code !== 'ELOOP') return classify(error, 'open', step.path());
  try {
    const found = lstatSync(path);
    if (found.isSymbolicLink()) return new Unreachable(step, 'symlink');
    if (!found.isDirectory()) return new Unreachable(step, 'file');
    return new StorageError('transient', `${step.path()} was replaced while it was being opened`);
  } catch (lookError) {
    if (codeOf(lookError) === 'ENOENT') return new Unreachable(step, 'nothing');
    return classify(lookError, 'look at', step.path());
  }
}
