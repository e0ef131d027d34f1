/** A root in a directory of its own, with what the tests need to put there and to see. */
import { spawn } from 'node:child_process';
import { mkdirSync, readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { lstat, mkdir, mkdtemp, readdir, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import type { Cleanup, Handler, Result } from '../../../src/handlers/contract.ts';
import { createFileHandler, type FileHandlerOptions } from '../../../src/handlers/file/index.ts';
import { parseTarget } from '../../../src/target.ts';
import { createTestContext, type TestContext, type TestContextOptions } from '../context.ts';

export class Disk {
  readonly handler: Handler;
  /** The directory above the root: what lies in it beside the root must never be touched. */
  readonly base: string;
  /** The root as a path, without a slash at its end. */
  readonly path: string;
  /** The root as an address. */
  readonly root: string;
  identity = '';
  #nextId = 1;

  private constructor(base: string, options: FileHandlerOptions) {
    this.base = base;
    this.path = join(base, 'root');
    this.root = `file://${this.path}/`;
    this.handler = createFileHandler(options);
  }

  static async create(options: FileHandlerOptions = {}, place = tmpdir()): Promise<Disk> {
    const base = await realpath(await mkdtemp(join(place, 'afterdelete-file-')));
    const disk = new Disk(base, options);
    await mkdir(disk.path);
    disk.identity = (await disk.handler.identify?.(disk.root, { create: true })) ?? '';
    return disk;
  }

  remove(): Promise<void> {
    return rm(this.base, { recursive: true, force: true });
  }

  /** A path below the root. */
  at(path: string): string {
    return join(this.path, path);
  }

  /** Writes files with the directories above them; returns their paths. */
  async write(...paths: string[]): Promise<string[]> {
    const all = paths.map(path => this.at(path));
    for (const directory of new Set(all.map(path => dirname(path))))
      mkdirSync(directory, { recursive: true });
    for (const path of all) writeFileSync(path, 'x'.repeat(5000));
    return all;
  }

  context(options: TestContextOptions = {}): TestContext {
    return createTestContext({ identity: () => this.identity, ...options });
  }

  cleanup(path: string, more: Partial<Cleanup> = {}): Cleanup {
    const target = parseTarget(`${this.root}${path}`);
    return { id: String(this.#nextId++), target, root: this.root, pruneParents: 0, attempt: 0, ...more };
  }

  async delete(path: string, more: Partial<Cleanup> = {}, context = this.context()): Promise<Result> {
    const [result] = await this.handler.delete([this.cleanup(path, more)], context);
    return result as Result;
  }

  /** Everything below the root (or another directory of the base), as paths relative to it, without marks. */
  async list(directory = this.path): Promise<string[]> {
    // With file types: without, Node lists what a link points to as if it were below the link.
    const all = await readdir(directory, { recursive: true, withFileTypes: true });
    return all
      .filter(entry => entry.name !== '.afterdelete-root')
      .map(entry => relative(directory, join(entry.parentPath, entry.name)))
      .sort();
  }
}

export async function exists(path: string): Promise<boolean> {
  return lstat(path).then(
    () => true,
    () => false,
  );
}

/** The paths of this process's open descriptors below a directory, those of its threads among them. Linux only. */
export function openBelow(directory: string): string[] {
  return readdirSync('/proc/self/fd')
    .map(fd => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`);
      } catch {
        return '';
      }
    })
    .filter(path => path.startsWith(directory));
}

/** Runs a command to its end; false when it failed or is not there. */
export function succeeds(command: string, ...args: string[]): Promise<boolean> {
  return new Promise(resolve => {
    const child = spawn(command, args, { stdio: 'ignore' });
    child.on('error', () => resolve(false));
    child.on('exit', code => resolve(code === 0));
  });
}

/** Runs a command to its end. */
export async function run(command: string, ...args: string[]): Promise<void> {
  if (!(await succeeds(command, ...args))) throw new Error(`${command} ${args.join(' ')} failed`);
}
