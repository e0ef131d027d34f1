import { mkdir, readdir, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { parseTarget } from '../../../src/target.ts';
import { type ConformanceStore, describeConformance } from '../conformance.ts';
import { Disk } from './disk.ts';

async function setup(pinned: boolean): Promise<ConformanceStore> {
  const disk = await Disk.create({ pinned });
  const pathOf = (target: string) => parseTarget(target).path;
  return {
    handler: disk.handler,
    root: disk.root,
    identity: disk.identity,
    tellsAbsent: true,
    async put(target, content) {
      await mkdir(dirname(pathOf(target)), { recursive: true });
      await writeFile(pathOf(target), content);
    },
    async list() {
      const entries = await readdir(disk.path, { recursive: true, withFileTypes: true });
      return entries
        .filter(entry => !entry.isDirectory())
        .map(entry => `file://${join(entry.parentPath, entry.name)}`)
        .filter(target => target !== `${disk.root}.afterdelete-root`)
        .sort();
    },
    async bytesOf(targets) {
      const sizes = await Promise.all(targets.map(async target => (await stat(pathOf(target))).blocks * 512));
      return sizes.reduce((sum, size) => sum + size, 0);
    },
    close: () => disk.remove(),
  };
}

if (process.platform === 'linux') describeConformance('file handler', () => setup(true));
describeConformance('file handler by plain paths', () => setup(false));
