/**
 * An attack on a deletion: a process that swaps a directory for a link to a victim and back, as fast as it can. And who
 * falls for it, so that it is known to be one: a deletion by paths, as it is often written.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { lstatSync, mkdirSync, readdirSync, rmdirSync, rmSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Disk } from './disk.ts';

const SWAPPER = `
  const { renameSync, symlinkSync, unlinkSync, writeSync } = require('node:fs');
  const [directory, victim] = process.argv.slice(1);
  let told = false;
  const attempt = f => { try { f(); return true; } catch { return false; } };
  for (;;) {
    if (!attempt(() => renameSync(directory, directory + '.away'))) continue;
    if (attempt(() => symlinkSync(victim, directory))) {
      if (!told) told = writeSync(1, 'swapping') > 0;
      attempt(() => unlinkSync(directory));
    }
    attempt(() => renameSync(directory + '.away', directory));
  }
`;

/** Files in each directory of the victim and of what is deleted: they have the same names. */
const FILES = 40;

/** A tree that is deleted again and again, and a victim beside its root that must not lose anything. */
export class Arena {
  readonly disk: Disk;
  readonly victim: string;
  /** What is deleted, from the root: files in two directories, both of which the victim has as well. */
  readonly paths: readonly string[];
  #swapper: ChildProcess | undefined;

  constructor(disk: Disk) {
    this.disk = disk;
    this.victim = join(disk.base, 'victim');
    const names = Array.from({ length: FILES }, (_, n) => `${n}`);
    this.paths = names.flatMap(name => [`t/swapped/${name}`, `t/swapped/deeper/${name}`]);
    this.bringVictim();
  }

  /** The victim with all its files. */
  bringVictim(): void {
    fill(this.victim);
  }

  /** Files that the victim has lost. */
  get lost(): number {
    return (
      2 * FILES - readdirSync(this.victim, { recursive: true }).filter(name => /\d$/.test(`${name}`)).length
    );
  }

  /** Begins to swap `t/swapped`. */
  async attack(): Promise<void> {
    const directory = this.disk.at('t/swapped');
    this.#swapper = spawn(process.execPath, ['-e', SWAPPER, directory, this.victim], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    if (this.#swapper.stdout) await once(this.#swapper.stdout, 'data');
  }

  /** Puts what is to be deleted back to its beginning, while the attacker sleeps. */
  restore(): void {
    this.#swapper?.kill('SIGSTOP');
    for (let n = 0; ; n += 1) {
      try {
        // The signal takes effect a moment later.
        rmSync(this.disk.at('t'), { recursive: true, force: true });
        fill(this.disk.at('t/swapped'));
        break;
      } catch (error) {
        if (n === 100) throw error;
      }
    }
    this.#swapper?.kill('SIGCONT');
  }

  async end(): Promise<void> {
    if (this.#swapper?.exitCode !== null) return;
    this.#swapper.kill('SIGKILL');
    await once(this.#swapper, 'exit');
  }
}

function fill(directory: string): void {
  mkdirSync(join(directory, 'deeper'), { recursive: true });
  for (let n = 0; n < FILES; n += 1) {
    writeFileSync(join(directory, `${n}`), 'precious');
    writeFileSync(join(directory, 'deeper', `${n}`), 'precious');
  }
}

/** Looks before it deletes, follows no link that it sees, and is led astray all the same. */
export function deleteByPaths(path: string): void {
  try {
    if (!lstatSync(path).isDirectory()) {
      unlinkSync(path);
      return;
    }
    for (const name of readdirSync(path)) deleteByPaths(join(path, name));
    rmdirSync(path);
  } catch {
    // As the attacker will have it: there or not, a directory or not.
  }
}
