/**
 * Directories by path, for systems without `/proc/self/fd` (macOS, for development).
 *
 * WEAKER than `pinned.ts`: every step is looked at before each use, but whoever may write below the root and wins the
 * race between the look and the use can still lead a deletion out of it. Bind mounts of the same device are not seen,
 * and a path longer than the system's limit cannot be reached. Production belongs on Linux.
 */
import { type BigIntStats, lstatSync, statSync } from 'node:fs';
import { classify, codeOf } from './errors.ts';
import { Folder, type Folders, type Name, nameOf, type OpenFolder, pathOf, Unreachable } from './folders.ts';
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

  use<T>(folder: Folder, work: (open: OpenFolder) => T): T {
    const { dev } = this.#lookAtRoot();
    let path: Name = this.root.name;
    for (const step of folder.steps()) {
      path += `/${step.name}`;
      lookAt(pathOf(path), step, dev);
    }
    return work({ path: pathOf(path || '/'), entry: name => pathOf(`${path}/${name}`) });
  }

  forget(): void {}

  close(): void {}

  #lookAtRoot(): BigIntStats {
    const path = this.#rootPath || '/';
    try {
      return statSync(`${path}/`, { bigint: true });
    } catch (error) {
      throw unreachableRoot(error, this.#uri, path);
    }
  }
}

function lookAt(path: string | Buffer, step: Folder, dev: bigint): void {
  let found: BigIntStats;
  try {
    found = lstatSync(path, { bigint: true });
  } catch (error) {
    const code = codeOf(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') throw new Unreachable(step, 'nothing');
    throw classify(error, 'look at', step.path());
  }
  if (found.isSymbolicLink()) throw new Unreachable(step, 'symlink');
  if (!found.isDirectory()) throw new Unreachable(step, 'file');
  if (found.dev !== dev) throw new Unreachable(step, 'mount');
}
