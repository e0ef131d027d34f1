import { execFile } from 'node:child_process';
import { chmodSync } from 'node:fs';
import { mkdir, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { StorageError } from '../../../src/handlers/contract.ts';
import { createFileHandler } from '../../../src/handlers/file/index.ts';
import { SinglesMemory } from '../../../src/handlers/file/memory.ts';
import { singles } from '../../../src/handlers/file/singles.ts';
import { probeAsAnother } from './another-user.ts';
import { Disk, run } from './disk.ts';

const modes = process.platform === 'linux' ? [true, false] : [false];
const OTHER = '01234567-89ab-4def-8123-456789abcdef';

describe.each(modes)('the mark of a root (pinned: %s)', pinned => {
  let disk: Disk;
  let mark: string;
  beforeEach(async () => {
    disk = await Disk.create({ pinned });
    mark = disk.at('.afterdelete-root');
  });
  afterEach(() => disk.remove());

  const identify = (create: boolean) => disk.handler.identify?.(disk.root, { create }) as Promise<string>;
  const error = async (promise: Promise<unknown>) => {
    const thrown: unknown = await promise.then(
      () => undefined,
      (reason: unknown) => reason,
    );
    expect(thrown).toBeInstanceOf(StorageError);
    return thrown as StorageError;
  };

  it('is written once, and read from then on', async () => {
    await rm(mark);
    const written = await identify(true);
    expect(written).toMatch(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
    expect(await readFile(mark, 'utf8')).toBe(`${written}\n`);
    expect(await identify(true)).toBe(written);
    expect(await identify(false)).toBe(written);
    expect(await disk.list()).toEqual([]);
    expect((await stat(mark)).nlink).toBe(1);
  });

  it('that is there is taken over, in any case and with white space', async () => {
    await writeFile(mark, `  ${OTHER.toUpperCase()}\r\n`);
    expect(await identify(true)).toBe(OTHER);
    expect(await readFile(mark, 'utf8')).toContain(OTHER.toUpperCase());
  });

  it('is agreed on by any number of daemons that come at once', async () => {
    for (let round = 0; round < 10; round += 1) {
      await rm(mark);
      const all = await Promise.all(
        Array.from({ length: 20 }, () =>
          createFileHandler({ pinned }).identify?.(disk.root, { create: true }),
        ),
      );
      expect(new Set(all).size).toBe(1);
    }
    expect(await disk.list()).toEqual([]);
  });

  it('is agreed on by processes, too', async () => {
    await rm(mark);
    const module = fileURLToPath(new URL('../../../src/handlers/file/index.ts', import.meta.url));
    const script = `
      import { createFileHandler } from ${JSON.stringify(module)};
      console.log(await createFileHandler().identify(${JSON.stringify(disk.root)}, { create: true }));`;
    const all = await Promise.all(
      [1, 2, 3].map(() => promisify(execFile)(process.execPath, ['--input-type=module', '-e', script])),
    );
    expect(new Set(all.map(({ stdout }) => stdout)).size).toBe(1);
    expect(await disk.list()).toEqual([]);
  });

  it('that is missing is not made unless asked for', async () => {
    await rm(mark);
    const thrown = await error(identify(false));
    expect(thrown.kind).toBe('wrong_root');
    expect(thrown.message).toMatch(/expected a UUID in ".*\.afterdelete-root", found no such file/);
    expect(thrown.message).toContain(`afterdelete check --adopt ${disk.root}`);
    expect(await disk.list(disk.base)).toEqual(['root']);
  });

  it.each([
    ['an empty file', async (path: string) => writeFile(path, '')],
    ['words', async (path: string) => writeFile(path, 'hands\u001b[31m off')],
    ['a UUID and more', async (path: string) => writeFile(path, `${OTHER}${OTHER}`)],
    ['a great file', async (path: string) => writeFile(path, 'x'.repeat(100_000))],
    ['a directory', async (path: string) => mkdir(path)],
    ['a FIFO', async (path: string) => run('mkfifo', path)],
    ['a link', async (path: string) => symlink('elsewhere', path)],
  ])('that is %s is no mark, and is left as it is', async (_, make) => {
    await rm(mark);
    await writeFile(disk.at('elsewhere'), OTHER);
    await make(mark);
    for (const create of [false, true]) {
      const thrown = await error(identify(create));
      expect(thrown.kind).toBe('wrong_root');
      expect(thrown.message).toMatch(/expected a UUID in .*, found .*If this is the right disk, remove/);
      expect(thrown.message).not.toContain('\u001b');
    }
    expect(await disk.delete('elsewhere')).toMatchObject({ outcome: 'wrong_root' });
  });

  it.each([
    ['is missing', async () => rename(disk.path, `${disk.base}/moved`)],
    ['is a file', async () => rename(disk.path, `${disk.base}/moved`).then(() => writeFile(disk.path, ''))],
  ])('says so when the root %s', async (_, spoil) => {
    await disk.write('a', 't/b');
    await spoil();
    for (const create of [false, true]) expect((await error(identify(create))).kind).toBe('wrong_root');
    const probe = await error(disk.handler.probe(disk.root, disk.context()));
    expect(probe).toMatchObject({
      kind: 'wrong_root',
      message: expect.stringMatching(
        /the root file:\/\/.* is missing: expected a directory at .* found .*Mount/,
      ),
    });
    for (const path of ['a', 't/', 'gone']) {
      expect(await disk.delete(path)).toMatchObject({ outcome: 'wrong_root', error: probe.message });
    }
    expect(await disk.list(`${disk.base}/moved`)).toEqual(['a', 't', 't/b']);
  });

  it('decides over every cleanup of a batch: missing, another one, restored', async () => {
    await disk.write('a', 't/b');
    const all = () =>
      disk.handler.delete(
        ['a', 'gone', 't/'].map(path => disk.cleanup(path)),
        disk.context(),
      );
    const outcomes = async () => (await all()).map(result => result.outcome);

    await rm(mark);
    expect(await outcomes()).toEqual(['wrong_root', 'wrong_root', 'wrong_root']);
    await writeFile(mark, OTHER);
    expect(await outcomes()).toEqual(['wrong_root', 'wrong_root', 'wrong_root']);
    const [result] = await all();
    expect(result).toMatchObject({
      error: expect.stringMatching(new RegExp(`expected ${disk.identity} in .*, found ${OTHER}\\..*--adopt`)),
    });
    expect(await disk.handler.inspect(disk.cleanup('t/'), disk.context())).toMatchObject({
      problem: expect.stringContaining('is not the disk it was'),
    });
    expect((await error(disk.handler.probe(disk.root, disk.context()))).kind).toBe('wrong_root');
    expect(await disk.list()).toEqual(['a', 't', 't/b']);

    await writeFile(mark, disk.identity);
    expect(await outcomes()).toEqual(['deleted', 'absent', 'deleted']);
  });

  it('is asked again before anything is called absent', async () => {
    await disk.write('a');
    // What no cleanup may do: in the middle of an order, the mark itself goes.
    const memory = SinglesMemory.for(3);
    const answer = singles({
      place: { root: disk.root, pinned, recorded: disk.identity },
      groups: [{ address: [], names: 'a/.afterdelete-root/gone' }],
      memory: memory.buffer,
    });
    expect([0, 1, 2].map(n => memory.bytesOf(n) !== undefined)).toEqual([true, true, false]);
    expect(answer).toEqual({ value: new Map([[2, expect.objectContaining({ outcome: 'wrong_root' })]]) });
  });

  it('that goes in the middle of a batch ends it: what is left is neither touched nor absent', async () => {
    const paths = Array.from({ length: 300 }, (_, n) => `d/${n}`);
    await disk.write(...paths);
    const context = disk.context({ slots: 1 });
    context.beforeCall(call => (call === 2 ? rm(mark) : undefined));
    const cleanups = [...paths, 'gone'].map(path => disk.cleanup(path, { pruneParents: 1 }));
    const results = await disk.handler.delete(cleanups, context);
    // Those that are gone wait for the disk too, because their parents are to be pruned.
    expect(new Set(results.map(({ outcome }) => outcome))).toEqual(new Set(['wrong_root']));
    const gone = results.filter(({ objects }) => objects === 1).length;
    expect(gone).toBeGreaterThan(0);
    expect(results.at(-1)?.objects).toBe(0);
    expect((await disk.list()).length).toBe(1 + paths.length - gone);
  });

  it('is needed: a root of which nothing is recorded is not touched', async () => {
    await disk.write('a');
    const result = await disk.delete('a', {}, disk.context({ identity: () => undefined }));
    expect(result).toMatchObject({
      outcome: 'wrong_root',
      error: expect.stringContaining('nothing is recorded'),
    });
    expect(await disk.list()).toEqual(['a']);
  });

  it('is asked of each root of a batch', async () => {
    await disk.write('a', 'second/b');
    const second = `${disk.root}second/`;
    const cleanups = [disk.cleanup('second/b', { root: second }), disk.cleanup('a')];
    const results = await disk.handler.delete(cleanups, disk.context());
    expect(results).toMatchObject([{ outcome: 'wrong_root' }, { outcome: 'deleted' }]);
    expect(await disk.list()).toEqual(['second', 'second/b']);
  });
});

describe.runIf(process.platform === 'linux')('probing a root', () => {
  it('finds one that may not be changed', async test => {
    const disk = await Disk.create();
    try {
      chmodSync(disk.path, 0o555);
      const message = await probeAsAnother(disk);
      if (message === undefined) return test.skip('no other user can run the handler here');
      expect(message).toMatch(/list, write and search ".*root": EACCES.*Give the daemon's user permission/);
      chmodSync(disk.path, 0o755);
      expect(await probeAsAnother(disk)).toBe('');
    } finally {
      chmodSync(disk.path, 0o755);
      await disk.remove();
    }
  });
});
