import { mkdir, rename, rm } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Disk, run, succeeds } from './disk.ts';

const modes = process.platform === 'linux' ? [true, false] : [false];

describe.each(modes)('pruning of parents (pinned: %s)', pinned => {
  let disk: Disk;
  beforeEach(async () => {
    disk = await Disk.create({ pinned });
  });
  afterEach(() => disk.remove());

  it('removes as many levels as were asked for', async () => {
    await disk.write('a/b/c/file', 'a/b/c/tree/x');
    expect((await disk.delete('a/b/c/file', { pruneParents: 2 })).outcome).toBe('deleted');
    expect(await disk.list()).toContain('a/b/c/tree/x');
    expect((await disk.delete('a/b/c/tree/', { pruneParents: 2 })).outcome).toBe('deleted');
    expect(await disk.list()).toEqual(['a']);
  });

  it('removes none when none was asked for', async () => {
    await disk.write('a/b/file');
    await disk.delete('a/b/file');
    expect(await disk.list()).toEqual(['a', 'a/b']);
  });

  it('stops at what is not empty', async () => {
    await disk.write('a/b/c/file', 'a/other');
    const result = await disk.delete('a/b/c/file', { pruneParents: 32 });
    expect(result).toMatchObject({ outcome: 'deleted', objects: 1 });
    expect(result).not.toHaveProperty('note');
    expect(await disk.list()).toEqual(['a', 'a/other']);
  });

  it('stops at the root, however many levels were asked for', async () => {
    await disk.write('a/b/file', 'file');
    await rm(disk.at('file'));
    await disk.delete('a/b/file', { pruneParents: 32 });
    await disk.delete('file', { pruneParents: 32 });
    expect(await disk.list()).toEqual([]);
    expect(await disk.list(disk.base)).toEqual(['root']);
  });

  it('goes on when the target or some parents are already gone', async () => {
    await mkdir(disk.at('a/b'), { recursive: true });
    expect((await disk.delete('a/b/c/d/gone', { pruneParents: 3 })).outcome).toBe('absent');
    expect(await disk.list()).toEqual(['a']);
    expect((await disk.delete('a/b/c/d/gone', { pruneParents: 5 })).outcome).toBe('absent');
    expect(await disk.list()).toEqual([]);
  });

  it('works for a batch: each directory is tried once, after all that is in it', async () => {
    const paths = Array.from({ length: 60 }, (_, n) => `p/${n % 3}/${n % 6}/${n}`);
    await disk.write(...paths, 'p/keep');
    const context = disk.context();
    const results = await disk.handler.delete(
      paths.map((path, n) => disk.cleanup(path, { pruneParents: n < 6 ? 5 : 1 })),
      context,
    );
    expect(results.every(result => result.outcome === 'deleted')).toBe(true);
    expect(await disk.list()).toEqual(['p', 'p/keep']);
    // The mark, 6 directories with files, 6 + 3 + 1 directories tried.
    expect(context.calls).toBeLessThanOrEqual(1 + 6 + 10);
  });

  it('takes no parent of what could not be deleted', async () => {
    await disk.write('a/b/directory/x');
    expect((await disk.delete('a/b/directory', { pruneParents: 2 })).outcome).toBe('dead');
    expect(await disk.list()).toEqual(['a', 'a/b', 'a/b/directory', 'a/b/directory/x']);
  });

  it('that is stopped is gone on with', async () => {
    await disk.write('a/b/file');
    const context = disk.context();
    context.stopAfter(2);
    const first = await disk.delete('a/b/file', { pruneParents: 2 }, context);
    expect(first).toMatchObject({ outcome: 'yielded', objects: 1 });
    expect(await disk.delete('a/b/file', { pruneParents: 2 })).toMatchObject({ outcome: 'absent' });
    expect(await disk.list()).toEqual([]);
  });

  it('that finds another disk, or none, is left to a run that finds the right one', async () => {
    await disk.write('a/b/file');
    const context = disk.context();
    context.beforeCall(async call => {
      // The file is gone by then.
      if (call === 2) await rename(disk.path, `${disk.path}-away`);
    });
    const result = await disk.delete('a/b/file', { pruneParents: 2 }, context);
    expect(result).toMatchObject({ outcome: 'wrong_root', objects: 1 });
    await rename(`${disk.path}-away`, disk.path);
    expect(await disk.list()).toEqual(['a', 'a/b']);
    expect(await disk.delete('a/b/file', { pruneParents: 2 })).toMatchObject({ outcome: 'absent' });
    expect(await disk.list()).toEqual([]);
  });

  it('that fails is noted, and the cleanup succeeds', async test => {
    await disk.write('a/b/file');
    if (!(await succeeds('chattr', '+i', disk.at('a')))) return test.skip('chattr +i does not work here');
    try {
      expect(await disk.delete('a/b/file', { pruneParents: 2 })).toMatchObject({
        outcome: 'deleted',
        objects: 1,
        note: expect.stringMatching(/parent directories were left: .*a\/b": E(PERM|ACCES)/),
      });
    } finally {
      await run('chattr', '-i', disk.at('a'));
    }
  });
});
