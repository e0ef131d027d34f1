/**
 * Directories held by descriptors (Linux).
 *
 * Node has no openat(2), but `/proc/self/fd/N/child` is resolved from the open directory N, whatever has become of
 * the path by which it was opened. Each step is opened from the one before with O_DIRECTORY | O_NOFOLLOW, so that a
 * directory that is swapped for a link at any moment is either still the old one or an error, never the link's goal.
 */
import { constants, close as fsClose, fstat as fsFstat, open as fsOpen, readFileSync } from 'node:fs';
import { lstat } from 'node:fs/promises';
import { promisify } from 'node:util';
import { Stopped, StorageError } from '../contract.ts';
import { classify, codeOf } from './errors.ts';
import { bytesOf, Folder, type Folders, type Name, nameOf, type OpenFolder, Unreachable } from './folders.ts';
import { unreachableRoot } from './root.ts';

const open = promisify(fsOpen);
const fstat = promisify(fsFstat);

/**
 * Directories kept open for the next use. Going up a chain of a thousand levels, those let go of are opened again
 * from the nearest one still open, a stretch at a time.
 */
const KEPT_OPEN = 64;

/** An open directory. It must stay open as long as anybody uses it. */
class Pin implements OpenFolder {
  readonly fd: number;
  /** What tells one file system, and one mount of it, from another. */
  readonly mount: string;
  readonly path: Buffer;
  /**
   * Work that goes on in this directory. A call that has timed out is left behind and may still be at it: were the
   * descriptor closed under it, its number would be given to another directory, and it would delete there.
   */
  users = 0;
  dropped = false;

  constructor(fd: number, mount: string) {
    this.fd = fd;
    this.mount = mount;
    this.path = Buffer.from(`/proc/self/fd/${fd}`);
  }

  entry(name: Name): Buffer {
    return bytesOf(`/proc/self/fd/${this.fd}/${name}`);
  }

  drop(): void {
    this.dropped = true;
    this.#closeIfUnused();
  }

  release(): void {
    this.users -= 1;
    this.#closeIfUnused();
  }

  #closeIfUnused(): void {
    // There is nothing to do about a close that fails, and the descriptor is gone all the same.
    if (this.dropped && this.users === 0) fsClose(this.fd, () => {});
  }
}

export class PinnedFolders implements Folders {
  readonly root: Folder;
  readonly #rootPath: string;
  readonly #uri: string;
  /** In the order of their last use, so that the first is the one to let go of. */
  readonly #pins = new Map<Folder, Pin>();
  #closed = false;

  /** @param uri the root as configured, for messages; @param path where it is, without a slash at its end. */
  constructor(uri: string, path: string) {
    this.#uri = uri;
    this.#rootPath = path;
    this.root = new Folder(undefined, nameOf(Buffer.from(path)));
  }

  async use<T>(folder: Folder, work: (open: OpenFolder) => Promise<T>): Promise<T> {
    const pin = await this.#pin(folder);
    try {
      return await work(pin);
    } finally {
      pin.release();
    }
  }

  forget(folder: Folder): void {
    this.#pins.get(folder)?.drop();
    this.#pins.delete(folder);
  }

  close(): void {
    this.#closed = true;
    for (const folder of [...this.#pins.keys()]) this.forget(folder);
  }

  /** The open directory, with one more user, who must release it. */
  async #pin(folder: Folder): Promise<Pin> {
    const missing: Folder[] = [];
    let at: Folder = folder;
    while (at.parent && !this.#pins.has(at)) {
      missing.push(at);
      at = at.parent;
    }
    let pin = this.#kept(at) ?? (await this.#keep(at, () => this.#openRoot()));
    for (const step of missing.reverse()) {
      const parent = pin;
      try {
        pin = this.#kept(step) ?? (await this.#keep(step, () => openStep(parent, step)));
      } finally {
        parent.release();
      }
    }
    return pin;
  }

  #kept(folder: Folder): Pin | undefined {
    const pin = this.#pins.get(folder);
    if (!pin) return undefined;
    if (folder.parent) {
      this.#pins.delete(folder);
      this.#pins.set(folder, pin);
    }
    pin.users += 1;
    return pin;
  }

  async #keep(folder: Folder, openIt: () => Promise<Pin>): Promise<Pin> {
    if (this.#closed) throw new Stopped('the batch has ended without this call');
    const opened = await openIt();
    opened.users += 1;
    const other = this.#closed ? undefined : this.#kept(folder);
    if (this.#closed || other) {
      // Somebody else has opened it meanwhile, or nobody wants it any more.
      opened.drop();
      opened.release();
      if (!other) throw new Stopped('the batch has ended without this call');
      return other;
    }
    this.#pins.set(folder, opened);
    this.#letGo();
    return opened;
  }

  #letGo(): void {
    if (this.#pins.size <= KEPT_OPEN) return;
    for (const [folder, pin] of this.#pins) {
      if (pin.users > 0 || !folder.parent) continue;
      this.forget(folder);
      return;
    }
  }

  /** The root is what the operator configured: links in its own path and at its end are followed. */
  async #openRoot(): Promise<Pin> {
    try {
      return await pinOf(
        await open(Buffer.from(this.#rootPath || '/'), constants.O_RDONLY | constants.O_DIRECTORY),
      );
    } catch (error) {
      throw unreachableRoot(error, this.#uri, this.#rootPath || '/');
    }
  }
}

async function openStep(parent: Pin, step: Folder): Promise<Pin> {
  const path = parent.entry(step.name);
  let pin: Pin;
  try {
    pin = await pinOf(await open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW));
  } catch (error) {
    throw await whyNot(error, path, step);
  }
  if (pin.mount !== parent.mount) {
    pin.drop();
    throw new Unreachable(step, 'mount');
  }
  return pin;
}

/** Takes the descriptor over: it is closed when this fails. */
async function pinOf(fd: number): Promise<Pin> {
  try {
    const { dev } = await fstat(fd, { bigint: true });
    return new Pin(fd, `${dev} ${mountId(fd)}`);
  } catch (error) {
    fsClose(fd, () => {});
    throw error;
  }
}

/**
 * The mount that a descriptor was opened through. The device alone does not tell a bind mount of the same file
 * system. Read synchronously on purpose: procfs answers from memory, never from the disk.
 */
function mountId(fd: number): string {
  return /^mnt_id:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1] ?? '';
}

async function whyNot(error: unknown, path: Buffer, step: Folder): Promise<unknown> {
  const code = codeOf(error);
  if (code === 'ENOENT') return new Unreachable(step, 'nothing');
  // A link is ENOTDIR with O_DIRECTORY on Linux, and ELOOP without: only a look tells.
  if (code !== 'ENOTDIR' && code !== 'ELOOP') return classify(error, 'open', step.path());
  try {
    const found = await lstat(path);
    if (found.isSymbolicLink()) return new Unreachable(step, 'symlink');
    if (!found.isDirectory()) return new Unreachable(step, 'file');
    return new StorageError('transient', `${step.path()} was replaced while it was being opened`);
  } catch (lookError) {
    if (codeOf(lookError) === 'ENOENT') return new Unreachable(step, 'nothing');
    return classify(lookError, 'look at', step.path());
  }
}
