import { lstatSync, readFileSync, readlinkSync, renameSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Folder, nameOf, namesOf, Unreachable } from '../../../src/handlers/file/folders.ts';
import { PinnedFolders } from '../../../src/handlers/file/pinned.ts';
import { Recalled, removeFolder, unlinkFound } from '../../../src/handlers/file/remove.ts';
import { Disk, exists, openBelow } from './disk.ts';

describe.runIf(process.platform === 'linux')('pinned directories', () => {
  let disk: Disk;
  let folders: PinnedFolders;
  beforeEach(async () => {
    disk = await Disk.create();
    folders = new PinnedFolders(disk.root, disk.path);
  });
  afterEach(async () => {
    folders.close();
    await disk.remove();
  });
  const folder = (...names: string[]) =>
    names.reduce((parent, name) => new Folder(parent, name), folders.root);

  it('stay the same directory, whatever becomes of the path', async () => {
    await disk.write('a/file', 'b/other');
    folders.use(folder('a'), open => {
      renameSync(disk.at('a'), disk.at('moved'));
      renameSync(disk.at('b'), disk.at('a'));
      expect(readFileSync(open.entry('file'), 'utf8')).toContain('x');
      expect(readlinkSync(open.path)).toBe(disk.at('moved'));
    });
  });

  it('are kept open, so many, and opened again when they are needed', async () => {
    const names = Array.from({ length: 200 }, (_, n) => `${n}`);
    await disk.write(...names.map(name => `others/${name}/x`));
    const parent = folder('others');
    const all = names.map(name => new Folder(parent, name));
    for (const one of all) folders.use(one, () => {});
    expect(openBelow(disk.path).length).toBeLessThan(140);
    renameSync(disk.at('others/0'), disk.at('others/moved'));
    renameSync(disk.at('others/199'), disk.at('others/kept'));
    expect(() => folders.use(all[0] as Folder, () => {})).toThrow(Unreachable);
    expect(folders.use(all[199] as Folder, open => readlinkSync(open.path))).toBe(disk.at('others/kept'));
    folders.close();
    expect(openBelow(disk.path)).toEqual([]);
  });

  it('are used one at a time: nothing is done in one while another is entered', () => {
    expect(() => folders.use(folders.root, () => folders.use(folders.root, () => {}))).toThrow(
      'one directory at a time',
    );
    expect(folders.use(folders.root, () => 'again')).toBe('again');
  });

  it('tell what stood in the way', async () => {
    await disk.write('a/file');
    for (const [names, found] of [
      [['a', 'file', 'x'], 'file'],
      [['a', 'gone', 'x'], 'nothing'],
    ] as const) {
      const thrown = caught(() => folders.use(folder(...names), () => {}));
      expect(thrown).toBeInstanceOf(Unreachable);
      expect(thrown).toMatchObject({ found, folder: { name: names[1] } });
    }
  });

  it('are not changed any more by a call that was given up after its look', async () => {
    await disk.write('a/file', 'empty/x');
    folders.use(folder('a'), open => {
      const found = lstatSync(open.entry('file'));
      expect(() => unlinkFound(open.entry('file'), found, () => true)).toThrow(Recalled);
    });
    await disk.delete('empty/x');
    folders.use(folders.root, open => {
      expect(() => removeFolder(open, 'empty', () => true)).toThrow(Recalled);
    });
    expect(await exists(disk.at('a/file'))).toBe(true);
    expect(await exists(disk.at('empty'))).toBe(true);
  });
});

function caught(work: () => void): unknown {
  try {
    work();
  } catch (error) {
    return error;
  }
}

describe('names', () => {
  it('are bytes, one character each', () => {
    expect(namesOf('/a/é/')).toEqual(['a', 'Ã©']);
    expect(nameOf(new Uint8Array([0xff, 0x61]))).toBe('ÿa');
  });

  it('show empty segments in the middle, so that they can be refused', () => {
    expect(namesOf('/a//b')).toEqual(['a', '', 'b']);
    expect(namesOf('/')).toEqual([]);
  });
});
