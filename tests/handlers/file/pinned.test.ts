import { lstat, readFile, readlink, rename } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Folder, nameOf, namesOf, Unreachable } from '../../../src/handlers/file/folders.ts';
import { PinnedFolders } from '../../../src/handlers/file/pinned.ts';
import { removeFolder, unlinkFound } from '../../../src/handlers/file/remove.ts';
import { Disk, exists } from './disk.ts';

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
    const a = folder('a');
    await folders.use(a, async open => {
      await rename(disk.at('a'), disk.at('moved'));
      await rename(disk.at('b'), disk.at('a'));
      expect(await readFile(open.entry('file'), 'utf8')).toContain('x');
      expect(await readlink(open.path)).toBe(disk.at('moved'));
    });
  });

  it('stay open while somebody is in them: another would get the number of their descriptor', async () => {
    const names = Array.from({ length: 80 }, (_, n) => `${n}`);
    await disk.write('a/file', ...names.map(name => `others/${name}/x`));
    const [a, parent] = [folder('a'), folder('others')];
    await folders.use(a, async open => {
      folders.forget(a);
      for (const name of names) await folders.use(new Folder(parent, name), async () => {});
      expect(await readlink(open.path)).toBe(disk.at('a'));
      folders.close();
      await Promise.all(names.map(name => lstat(disk.at(`others/${name}`))));
      expect(await readlink(open.path)).toBe(disk.at('a'));
    });
  });

  it('are opened once for all who come at once', async () => {
    await disk.write('a/b/c/file');
    const c = folder('a', 'b', 'c');
    const paths = await Promise.all(
      Array.from({ length: 20 }, () => folders.use(c, async open => readlink(open.path))),
    );
    expect(new Set(paths)).toEqual(new Set([disk.at('a/b/c')]));
  });

  it('cannot be entered any more after the end', async () => {
    await disk.write('a/file');
    folders.close();
    await expect(folders.use(folder('a'), async () => 1)).rejects.toThrow('the batch has ended');
  });

  it('tell what stood in the way', async () => {
    await disk.write('a/file');
    for (const [names, found] of [
      [['a', 'file', 'x'], 'file'],
      [['a', 'gone', 'x'], 'nothing'],
    ] as const) {
      const thrown = await folders.use(folder(...names), async () => {}).catch((error: unknown) => error);
      expect(thrown).toBeInstanceOf(Unreachable);
      expect(thrown).toMatchObject({ found, folder: { name: names[1] } });
    }
  });

  it('are not changed any more by a call that was given up after its look', async () => {
    await disk.write('a/file', 'empty/x');
    const controller = new AbortController();
    await folders.use(folder('a'), async open => {
      const found = await lstat(open.entry('file'));
      controller.abort(new Error('given up'));
      await expect(unlinkFound(open, 'file', found, controller.signal)).rejects.toThrow('given up');
    });
    await disk.delete('empty/x');
    await folders.use(folders.root, async open => {
      await expect(removeFolder(open, 'empty', controller.signal)).rejects.toThrow('given up');
    });
    expect(await exists(disk.at('a/file'))).toBe(true);
    expect(await exists(disk.at('empty'))).toBe(true);
  });
});

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
