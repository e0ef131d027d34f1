/**
 * Directories by path, for systems without `/proc/self/fd` (macOS, for development).
 *
 * WEAKER than `pinned.ts`: every step is looked at before each use, but whoever may write below the root and wins the
 * race between the look and the use can still lead a deletion out of it. Bind mounts of the same device are not seen,
 * and a path longer than the system's limit cannot be reached. Production belongs on Linux.
 */
import type { BigIntStats } from 'node:fs';
import { lstat, stat } from 'node:fs/promises';
import { classify, codeOf } from './errors.ts';
import { bytesOf, Folder, type Folders, type Name, nameOf, type OpenFolder, Unreachable } from './folders.ts';
import { unreachableRoot } from './root.ts';

export class PlainFolders implements Folders {
  readonly root: Folder;
  readonly #rootPath: string;
  readonly #uri: string;

  constructor(uri: string, path: string) {
    this.#uri = uri;
    this.#rootPath = path;
    this.root = new Folder(undefined, nameOf(Buffer.from(path)));
  }

  async use<T>(folder: Folder, work: (open: OpenFolder) => Promise<T>): Promise<T> {
    const { dev } = await this.#lookAtRoot();
    let path: Name = this.root.name;
    for (const step of folder.steps()) {
      path += `/${step.name}`;
      await lookAt(bytesOf(path), step, dev);
    }
    return work({ path: bytesOf(path || '/'), entry: name => bytesOf(`${path}/${name}`) });
  }

  forget(): void {}

  close(): void {}

  async #lookAtRoot(): Promise<BigIntStats> {
    const path = this.#rootPath || '/';
    try {
      const found = await stat(`${path}/`, { bigint: true });
      return found;
    } catch (error) {
      throw unreachableRoot(error, this.#uri, path);
    }
  }
}

async function lookAt(path: Buffer, step: Folder, dev: bigint): Promise<void> {
  let found: BigIntStats;
  try {
    found = await lstat(path, { bigint: true });
  } catch (error) {
    const code = codeOf(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') throw new Unreachable(step, 'nothing');
    throw classify(error, 'look at', step.path());
  }
  if (found.isSymbolicLink()) throw new Unreachable(step, 'symlink');
  if (!found.isDirectory()) throw new Unreachable(step, 'file');
  if (found.dev !== dev) throw new Unreachable(step, 'mount');
}
