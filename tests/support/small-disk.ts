/** A file system that can be full, in memory: only root can mount one, and not everywhere. */
import { spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmdirSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';

export interface SmallDisk {
  readonly path: string;
  /** Takes all the room that is left. */
  fill(): void;
  /** Gives it back. */
  clear(): void;
}

function mount(megabytes: number): { path: string } | { problem: string } {
  const path = mkdtempSync('/tmp/afterdelete-small-');
  const options = `size=${megabytes}m,mode=0755`;
  const { status, stderr, error } = spawnSync('mount', ['-t', 'tmpfs', '-o', options, 'tmpfs', path], {
    encoding: 'utf8',
  });
  if (status === 0) return { path };
  rmdirSync(path);
  return { problem: error?.message ?? stderr.trim() };
}

/** Lazily: what is still open there goes when it is closed. */
function unmount(path: string): void {
  spawnSync('umount', ['-l', path]);
  rmdirSync(path);
}

/** Why this machine cannot have one; undefined when it can. */
export function smallDiskProblem(): string | undefined {
  const mounted = mount(1);
  if ('problem' in mounted) return `a small file system cannot be mounted here: ${mounted.problem}`;
  unmount(mounted.path);
  return undefined;
}

/** Unmounted when the test has finished. */
export function createSmallDisk(megabytes: number): SmallDisk {
  const mounted = mount(megabytes);
  if ('problem' in mounted) throw new Error(mounted.problem);
  const { path } = mounted;
  onTestFinished(() => unmount(path));
  const ballast = join(path, 'ballast');
  return {
    path,
    fill() {
      const file = openSync(ballast, 'a');
      try {
        for (let size = 1 << 20; size >= 1; ) {
          try {
            writeSync(file, Buffer.alloc(size));
          } catch (error) {
            if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
            size >>= 1;
          }
        }
      } finally {
        closeSync(file);
      }
    },
    clear: () => rmSync(ballast),
  };
}
