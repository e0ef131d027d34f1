/** Nothing outside the root, and nothing behind a link or a mount, is ever touched. */
import { mkdir, rename, symlink, writeFile } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, it, type TestContext } from 'vitest';
import { Arena, deleteByPaths } from './attack.ts';
import { Disk, run, succeeds } from './disk.ts';

const linux = process.platform === 'linux';
const modes = linux ? [true, false] : [false];

describe.each(modes)('links (pinned: %s)', pinned => {
  let disk: Disk;
  beforeEach(async () => {
    disk = await Disk.create({ pinned });
  });
  afterEach(() => disk.remove());

  it('are refused on the way, with the step named, and nothing is touched', async () => {
    await disk.write('real/a/b', 'x/y');
    await symlink(disk.at('real'), disk.at('x/link'));
    for (const path of ['x/link/a/b', 'x/link/a/', 'x/link/gone', 'x/link/gone/deeper/']) {
      const result = await disk.delete(path, { pruneParents: 5 });
      expect(result).toMatchObject({
        outcome: 'dead',
        objects: 0,
        error: expect.stringMatching(
          /root\/x\/link" is a symbolic link: expected a directory on the way to "file:\/\/.*Nothing was touched/,
        ),
      });
      const inspection = await disk.handler.inspect(disk.cleanup(path), disk.context());
      expect(inspection.problem).toBe('error' in result ? result.error : '');
    }
    expect(await disk.list()).toEqual(['real', 'real/a', 'real/a/b', 'x', 'x/link', 'x/y']);
  });

  it('are refused on the way even when they lead back inside, or nowhere', async () => {
    await disk.write('a/file');
    await symlink('a', disk.at('self'));
    await symlink('nowhere', disk.at('dangling'));
    for (const path of ['self/file', 'dangling/file', 'dangling/x/']) {
      expect((await disk.delete(path)).outcome).toBe('dead');
    }
    expect(await disk.list()).toEqual(['a', 'a/file', 'dangling', 'self']);
  });

  it('are what the operator configured in the root itself and above it', async () => {
    await mkdir(`${disk.base}/elsewhere`);
    await rename(disk.path, `${disk.base}/elsewhere/disk`);
    await symlink('elsewhere', `${disk.base}/above`);
    await symlink('above/disk', disk.path);
    await disk.write('t/a', 'single');
    expect(await disk.delete('t/')).toMatchObject({ outcome: 'deleted', objects: 1 });
    expect(await disk.delete('single')).toMatchObject({ outcome: 'deleted', objects: 1 });
    expect(await disk.list(`${disk.base}/elsewhere/disk`)).toEqual([]);
  });
});

describe.runIf(linux)('a directory that is swapped for a link while it is being deleted', () => {
  let arena: Arena;
  beforeEach(async () => {
    arena = new Arena(await Disk.create());
    arena.restore();
    await arena.attack();
  });
  afterEach(async () => {
    await arena.end();
    await arena.disk.remove();
  });

  // bench/race.ts does the same for minutes.
  it('loses files of its own only, where a deletion by paths loses those of the victim', async () => {
    const { disk } = arena;
    const outcomes = new Set<string>();
    for (let round = 0; round < 50; round += 1) {
      arena.restore();
      // All names in one storage call: by paths, the time between the check and the last unlink would be long.
      const cleanups = arena.paths.map(path => disk.cleanup(path));
      for (const { outcome } of await disk.handler.delete(cleanups, disk.context())) outcomes.add(outcome);
      expect(arena.lost).toBe(0);
      for (const path of ['t/swapped/deeper/', 't/swapped/', 't/']) {
        outcomes.add((await disk.delete(path)).outcome);
        expect(arena.lost).toBe(0);
      }
    }
    // The race was run: the deletion met the link, and got through beside it.
    expect(outcomes).toContain('dead');
    expect(outcomes).toContain('deleted');

    let rounds = 0;
    for (; arena.lost === 0 && rounds < 2000; rounds += 1) {
      arena.restore();
      deleteByPaths(disk.at('t'));
    }
    expect(arena.lost).toBeGreaterThan(0);
  }, 120_000);
});

describe.runIf(linux && process.getuid?.() === 0)('mounts', () => {
  let disk: Disk;
  let mounted: string[];
  beforeEach(async () => {
    disk = await Disk.create();
    mounted = [];
  });
  afterEach(async () => {
    for (const path of mounted.reverse()) await succeeds('umount', '--lazy', path);
    await disk.remove();
  });

  async function mount(test: TestContext, path: string, ...options: string[]): Promise<void> {
    await mkdir(path, { recursive: true });
    if (!(await succeeds('mount', ...options, path))) test.skip('mounting is not allowed here');
    mounted.push(path);
  }

  it.for([
    ['another file system', []],
    ['a bind mount of the same file system', ['bind']],
  ] as const)('in a tree: %s is refused, everything beside it deleted', async ([, kind], test) => {
    await disk.write('t/a', 't/sub/b', 't/z/c');
    const inner = disk.at('t/sub/mnt');
    await mkdir(`${disk.base}/precious`);
    const bind = kind.length > 0;
    const source = bind ? ['--bind', `${disk.base}/precious`] : ['-t', 'tmpfs', 'tmpfs'];
    await mount(test, inner, ...source);
    await writeFile(`${inner}/file`, 'precious');
    await mkdir(`${inner}/directory`);

    const inspection = await disk.handler.inspect(disk.cleanup('t/'), disk.context());
    const result = await disk.delete('t/');
    expect(result).toMatchObject({
      outcome: 'dead',
      objects: 3,
      error: expect.stringMatching(/t\/sub\/mnt" is a mount point: expected.*nothing in it was touched/),
    });
    expect(inspection).toMatchObject({ objects: 3, problem: 'error' in result ? result.error : '' });
    expect(await disk.list()).toEqual([
      ...['t', 't/sub', 't/sub/mnt', 't/sub/mnt/directory', 't/sub/mnt/file'],
    ]);
    await run('umount', inner);
    mounted.pop();
    expect(await disk.delete('t/')).toMatchObject({ outcome: 'deleted', objects: 0 });
    if (bind) expect(await disk.list(`${disk.base}/precious`)).toEqual(['directory', 'file']);
  });

  it('on the way, or as the target itself, are refused', async test => {
    await mount(test, disk.at('mnt'), '-t', 'tmpfs', 'tmpfs');
    await disk.write('mnt/d/file');
    for (const path of ['mnt/d/file', 'mnt/d/', 'mnt/', 'mnt/gone']) {
      expect(await disk.delete(path, { pruneParents: 3 })).toMatchObject({
        outcome: 'dead',
        objects: 0,
        error: expect.stringMatching(/root\/mnt" is a mount point.*make it a root of its own/),
      });
    }
    expect(await disk.list()).toEqual(['mnt', 'mnt/d', 'mnt/d/file']);
  });

  it('of the root itself: taken away, nothing is absent; back again, work goes on', async test => {
    const store = `${disk.base}/store`;
    await rename(disk.path, store);
    await mount(test, disk.path, '--bind', store);
    await disk.write('file', 't/file');
    await run('umount', disk.path);
    mounted.pop();
    for (const path of ['file', 't/', 'gone']) {
      expect(await disk.delete(path, { pruneParents: 1 })).toMatchObject({
        outcome: 'wrong_root',
        error: expect.stringMatching(/has no mark.*Mount the disk.*afterdelete check --adopt file:\/\//),
      });
    }
    expect(await disk.list(store)).toEqual(['file', 't', 't/file']);
    await mount(test, disk.path, '--bind', store);
    expect((await disk.delete('file')).outcome).toBe('deleted');
    expect((await disk.delete('t/')).outcome).toBe('deleted');
    expect((await disk.delete('gone')).outcome).toBe('absent');
  });

  it('over the root in the middle of a tree: the other disk is not touched, and nothing is called absent', async test => {
    await disk.write(...Array.from({ length: 2500 }, (_, n) => `t/${n}`));
    const context = disk.context();
    context.beforeCall(async call => {
      if (call !== 2) return;
      await mount(test, disk.path, '-t', 'tmpfs', 'tmpfs');
      await disk.write('t/precious');
    });
    const first = await disk.delete('t/', {}, context);
    expect(first).toMatchObject({ outcome: 'wrong_root', error: expect.stringContaining('has no mark') });
    expect(first.objects).toBeGreaterThan(0);
    expect(await disk.list()).toEqual(['t', 't/precious']);
    await run('umount', disk.path);
    mounted.pop();
    expect(await disk.delete('t/')).toMatchObject({ outcome: 'deleted', objects: 2500 - first.objects });
  });
});
