/** The files, and what the committed rows hold of them: the truth that a run is compared with. */
import { existsSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { heldBy, type Row } from './tables.ts';

/** What is stored at a target: a file, or a directory with files or without. */
export interface Upload {
  readonly target: string;
  readonly files: readonly string[];
}

const SENTINEL = '.afterdelete-root';

export class World {
  readonly directory: string;
  /** Committed rows, as last read. */
  rows: readonly Row[] = [];
  /** What they hold; undefined when there was a COMMIT since that could not be looked at. */
  #held: ReadonlyMap<string, readonly Row[]> | undefined;
  /** Everything that was ever uploaded in this run, by target. */
  #uploads = new Map<string, Upload>();
  #counter = 0;

  constructor(directory: string) {
    this.directory = directory;
  }

  /** A number that no row has had. */
  number(): number {
    return ++this.#counter;
  }

  /** A new upload; undefined when something has been at this target before: a path is never used again. */
  plan(target: string, files: number): Upload | undefined {
    if (this.#uploads.has(target)) return undefined;
    const path = pathOf(target);
    const upload = {
      target,
      files: target.endsWith('/')
        ? ['data', 'more/data'].slice(0, files % 3).map(name => join(path, name))
        : [path],
    };
    this.#uploads.set(target, upload);
    return upload;
  }

  upload({ target, files }: Upload): void {
    if (target.endsWith('/')) mkdirSync(pathOf(target), { recursive: true });
    for (const file of files) write(file);
  }

  /** Takes in what has been committed; undefined: it could not be read. */
  committed(rows: readonly Row[] | undefined): void {
    this.#held = undefined;
    if (rows === undefined) return;
    this.rows = rows;
    const held = new Map<string, Row[]>();
    for (const row of rows) {
      for (const target of heldBy(row, this.directory)) held.set(target, [...(held.get(target) ?? []), row]);
    }
    this.#held = held;
  }

  /** What committed rows hold, as last read. */
  get held(): ReadonlyMap<string, readonly Row[]> {
    return this.#held ?? new Map();
  }

  /** Whether a live row holds something below a tree that nobody holds: then the tree waits. */
  isBlocked(target: string): boolean {
    return (
      target.endsWith('/') &&
      !this.held.has(target) &&
      [...this.held.keys()].some(held => held.startsWith(target))
    );
  }

  /** @throws when something that a committed row holds is not stored. */
  check(when: string): void {
    for (const [target, rows] of this.held) {
      const missing = [pathOf(target), ...(this.#uploads.get(target)?.files ?? [])].filter(
        path => !existsSync(path),
      );
      // What belongs to a tree may be held by a row of its own, and go with that.
      if (missing.length > 0)
        throw new Error(
          `${when}: ${target} is held by ${JSON.stringify(rows)}, but there is no ${missing.join(', ')}`,
        );
    }
  }

  /** @throws when there are other files than those of targets that are held, or that wait because something below them is. */
  compare(waiting: ReadonlySet<string>): void {
    const expected = [...this.#uploads.values()]
      .filter(({ target }) => this.held.has(target) || waiting.has(target))
      .flatMap(({ files }) => files)
      .sort();
    const found = this.#found().sort();
    const orphans = found.filter(file => !expected.includes(file));
    const missing = expected.filter(file => !found.includes(file));
    if (orphans.length > 0 || missing.length > 0)
      throw new Error(
        `the outbox is empty; stored, and held by nobody: ${orphans.join(', ') || 'none'}; held, and not stored: ${missing.join(', ') || 'none'}`,
      );
  }

  #found(): string[] {
    return readdirSync(this.directory, { recursive: true, withFileTypes: true })
      .filter(entry => entry.isFile() && entry.name !== SENTINEL)
      .map(entry => join(entry.parentPath, entry.name));
  }

  /** A new run begins. */
  clear(): void {
    for (const name of readdirSync(this.directory)) {
      if (name !== SENTINEL) rmSync(join(this.directory, name), { recursive: true, force: true });
    }
    this.#uploads = new Map();
  }
}

const pathOf = (target: string) => target.slice('file://'.length).replace(/\/$/, '');

/** As every uploader must: an empty directory may be pruned, or a tree be deleted, just before the file is made in it. */
function write(path: string): void {
  for (;;) {
    mkdirSync(dirname(path), { recursive: true });
    try {
      writeFileSync(path, 'x');
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
}
