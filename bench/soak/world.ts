/** What is stored during a soak, files and objects, and which of it must be gone in the end. */
import { existsSync, mkdirSync, readdirSync, renameSync, rmdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { S3Server } from '../../tests/s3-server/server.ts';

export const BUCKET = 'soak';

/** The number of a transaction. Whether it was committed, the database tells in the end. */
export type Deed = number;

/** What a thing's end depends on. */
export interface Fate {
  /** It goes if this was committed; left out: it stays. */
  readonly doom?: Deed;
  /** It stays after all if this was committed. */
  readonly saved?: Deed;
}

export interface Found {
  /** Should be gone, and is there. */
  readonly left: readonly string[];
  /** Should be there, and is gone. */
  readonly lost: readonly string[];
  /** There, and nobody has put it there. */
  readonly strange: readonly string[];
}

/** A path begins with a slash; a key does not. */
const isPath = (name: string) => name.startsWith('/');

export class World {
  /** The root of all files. */
  readonly directory: string;
  readonly #s3: S3Server;
  readonly #things = new Map<string, Fate>();
  #away: Promise<void> | undefined;

  constructor(directory: string, s3: S3Server) {
    this.directory = directory;
    this.#s3 = s3;
  }

  get size(): number {
    return this.#things.size;
  }

  /** Resolves when the disk is there. What is written after it, without waiting for anything else, is on the disk. */
  async there(): Promise<void> {
    while (this.#away !== undefined) await this.#away;
  }

  /** Writes a file (below the root) and returns its target. */
  file(name: string, fate: Fate = {}): string {
    const path = join(this.directory, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, 'x');
    this.#things.set(path, fate);
    return `file://${path}`;
  }

  /** Writes a tree of so many files and returns its target. Beside it lies one with almost the same name, which stays. */
  tree(name: string, files: number, fate: Fate = {}): string {
    for (let i = 0; i < files; i++) this.file(`${name}/${i % 7}/${i}`, fate);
    this.#things.set(join(this.directory, name), fate);
    this.file(`${name}-kept/a`);
    return `file://${join(this.directory, name)}/`;
  }

  /** A directory that is there has this fate, too. */
  directoryOf(target: string, fate: Fate): void {
    this.#things.set(dirname(target.slice('file://'.length)), fate);
  }

  /** Stores an object and returns its target. */
  key(key: string, fate: Fate = {}): string {
    this.#s3.buckets.put(BUCKET, key, 'x');
    this.#things.set(key, fate);
    return `s3://${BUCKET}/${key}`;
  }

  /** Stores so many objects below a prefix, and returns its target. Beside it lies one that stays. */
  prefix(prefix: string, keys: number, fate: Fate = {}): string {
    for (let i = 0; i < keys; i++) this.key(`${prefix}/${i}`, fate);
    this.key(`${prefix}-kept/0`);
    return `s3://${BUCKET}/${prefix}/`;
  }

  /** Until the function that is returned is called, the disk is not mounted: an empty directory is there instead. */
  takeAway(): () => void {
    const aside = `${this.directory}.away`;
    renameSync(this.directory, aside);
    mkdirSync(this.directory);
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#away = promise;
    return () => {
      // Fails when somebody has written to what was not the disk.
      rmdirSync(this.directory);
      renameSync(aside, this.directory);
      this.#away = undefined;
      resolve();
    };
  }

  /** Forgets what is gone as it should be, so that a soak of hours does not fill the memory. */
  async forget(committed: ReadonlySet<Deed>): Promise<void> {
    let n = 0;
    for (const [name, { doom, saved }] of this.#things) {
      if (++n % 2_000 === 0) await new Promise(resolve => setImmediate(resolve));
      if (this.#away !== undefined) return;
      if (doom !== undefined && committed.has(doom) && saved === undefined && !this.#isThere(name))
        this.#things.delete(name);
    }
  }

  look(committed: ReadonlySet<Deed>): Found {
    const [left, lost]: [string[], string[]] = [[], []];
    for (const [name, { doom, saved }] of this.#things) {
      const goes =
        doom !== undefined && committed.has(doom) && !(saved !== undefined && committed.has(saved));
      if (this.#isThere(name) === goes) (goes ? left : lost).push(name);
    }
    const stored = [
      ...readdirSync(this.directory, { recursive: true, withFileTypes: true })
        .filter(entry => !entry.isDirectory() && entry.name !== '.afterdelete-root')
        .map(entry => join(entry.parentPath, entry.name)),
      ...this.#s3.buckets.list(BUCKET),
    ];
    return { left, lost, strange: stored.filter(name => !this.#things.has(name)) };
  }

  #isThere(name: string): boolean {
    return isPath(name) ? existsSync(name) : this.#s3.buckets.has(BUCKET, name);
  }
}
