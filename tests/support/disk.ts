/** A directory on a real disk to be a `file:` root; gone when the test is over. */
import { mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { onTestFinished } from 'vitest';

export interface Disk {
  readonly path: string;
  /** The address of the directory, with a slash at the end. */
  readonly root: string;
  /** Writes a file below it and returns its target. */
  write(name: string, content?: string): string;
  /** The path of something below it. */
  at(name: string): string;
}

export function createDisk(place = tmpdir()): Disk {
  const path = realpathSync(mkdtempSync(join(place, 'afterdelete-disk-')));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  const at = (name: string) => join(path, name);
  return {
    path,
    root: `file://${path}/`,
    at,
    write(name, content = 'content') {
      mkdirSync(dirname(at(name)), { recursive: true });
      writeFileSync(at(name), content);
      return `file://${at(name)}`;
    },
  };
}
