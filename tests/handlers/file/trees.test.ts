import { chmodSync, mkdirSync, rmdirSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
import { chmod, link, mkdir, readdir, readlink, stat, symlink, writeFile } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type Context, StorageError } from '../../../src/handlers/contract.ts';
import { deleteAsAnother } from './another-user.ts';
import { Disk, exists, run, succeeds } from './disk.ts';

const linux = process.platform === 'linux';
const modes = linux ? [true, false] : [false];

/** A chain of directories with a file at every level, made without ever naming a path longer than the limit. */
function makeChain(directory: string, levels: number): void {
  mkdirSync(directory);
  const home = process.cwd();
  try {
    process.chdir(directory);
    for (let level = 0; level < levels; level += 1) {
      writeFileSync('file', 'x');
      mkdirSync('directory-of-some-length');
      process.chdir('directory-of-some-length');
    }
  } finally {
    process.chdir(home);
  }
}

describe.each(modes)('trees (pinned: %s)', pinned => {
  let disk: Disk;
  beforeEach(async () => {
    disk = await Disk.create({ pinned });
  });
  afterEach(() => disk.remove());

  it('unlinks what stands in a tree and never follows it', async () => {
    const [precious] = await disk.write('precious/file');
    await disk.write('t/a/file');
    await symlink(disk.at('precious'), disk.at('t/a/link'));
    await symlink('../..', disk.at('t/up'));
    await symlink('loop', disk.at('t/loop'));
    await link(precious as string, disk.at('t/hard'));
    await run('mkfifo', disk.at('t/fifo'));
    const { blocks } = await stat(disk.at('t/a/file'));
    expect(await disk.delete('t/')).toEqual({ outcome: 'deleted', objects: 6, bytes: blocks * 512 });
    expect(await disk.list()).toEqual(['precious', 'precious/file']);
  });

  it('frees the bytes of hard links that all lie in the tree, once', async () => {
    const [first] = await disk.write('t/first');
    await link(first as string, disk.at('t/second'));
    const { blocks } = await stat(first as string);
    const inspected = await disk.handler.inspect(disk.cleanup('t/'), disk.context());
    expect(inspected).toEqual({ exists: true, objects: 2, bytes: blocks * 512 });
    expect(await disk.delete('t/')).toEqual({ outcome: 'deleted', objects: 2, bytes: blocks * 512 });
  });

  it('calls an empty directory deleted', async () => {
    await mkdir(disk.at('t'));
    expect(await disk.delete('t/')).toEqual({ outcome: 'deleted', objects: 0, bytes: 0 });
    expect(await disk.delete('t/')).toEqual({ outcome: 'absent', objects: 0, bytes: 0 });
  });

  it('deletes a chain of 100 levels', async () => {
    makeChain(disk.at('t'), 100);
    expect(await disk.delete('t/')).toMatchObject({ outcome: 'deleted', objects: 100 });
  });

  it('deletes a directory with more entries than one call takes', async () => {
    await disk.write(...Array.from({ length: 1000 }, (_, n) => `t/${n}`));
    const context = disk.context();
    expect(await disk.delete('t/', {}, context)).toMatchObject({ outcome: 'deleted', objects: 1000 });
    expect(context.calls).toBeGreaterThan(10);
    expect(await disk.list()).toEqual([]);
  });

  it('deletes several directories at a time, up to the slots', async () => {
    await disk.write(...Array.from({ length: 200 }, (_, n) => `t/${n % 20}/${n}`));
    const context = disk.context({ slots: 4 });
    expect(await disk.delete('t/', {}, context)).toMatchObject({ outcome: 'deleted', objects: 200 });
    expect(context.mostAtOnce).toBeGreaterThan(1);
    expect(context.mostAtOnce).toBeLessThanOrEqual(4);
  });

  it('retries a tree in which somebody still writes', async () => {
    await disk.write('t/a/file');
    const context = disk.context();
    context.beforeCall(call => {
      mkdirSync(disk.at(`t/new-${call}`), { recursive: true });
    });
    const result = await disk.delete('t/', {}, context);
    expect(result).toMatchObject({
      outcome: 'retry',
      error: expect.stringMatching(/t": ENOTEMPTY.*still writes there/),
    });
    expect(result.objects).toBe(1);
    expect(await disk.delete('t/')).toMatchObject({ outcome: 'deleted', objects: 0 });
  });

  it('retries when a directory becomes a link under its hands, and the link goal keeps its files', async () => {
    await disk.write('victim/file');
    await mkdir(disk.at('t/a'), { recursive: true });
    const context = disk.context();
    // Call 1 is the mark, 2 the look at the tree, 3 the listing of the tree: 4 enters t/a.
    context.beforeCall(call => {
      if (call !== 4) return;
      rmdirSync(disk.at('t/a'));
      symlinkSync(disk.at('victim'), disk.at('t/a'));
    });
    expect(await disk.delete('t/', {}, context)).toMatchObject({
      outcome: 'retry',
      error: expect.stringMatching(/t\/a" was a directory, and is now a symlink/),
    });
    expect(await disk.delete('t/')).toMatchObject({ outcome: 'deleted', objects: 1 });
    expect(await disk.list()).toEqual(['victim', 'victim/file']);
  });

  it('deletes everything else when a directory may not be changed, and says which', async test => {
    await disk.write('t/open/1', 't/open/2', 't/shut/3', 't/shut/4', 't/z/5');
    await chmod(disk.at('t/shut'), 0o555);
    const result = await deleteAsAnother(disk, 't/', pinned);
    if (!result) return test.skip('no other user can run the handler here');
    expect(result).toMatchObject({
      outcome: 'dead',
      objects: 3,
      error: expect.stringMatching(/t\/shut\/\d": EACCES \(permission denied\).*\(and 1 more/),
    });
    expect(await disk.list()).toEqual(['t', 't/shut', 't/shut/3', 't/shut/4']);
    chmodSync(disk.at('t/shut'), 0o777);
  });

  it('names a directory that may not be listed', async test => {
    await disk.write('t/open/1', 't/shut/2');
    await chmod(disk.at('t/shut'), 0);
    const result = await deleteAsAnother(disk, 't/', pinned);
    chmodSync(disk.at('t/shut'), 0o777);
    if (!result) return test.skip('no other user can run the handler here');
    expect(result).toMatchObject({
      outcome: 'dead',
      objects: 1,
      error: expect.stringMatching(/t\/shut": EACCES/),
    });
    expect(await disk.list()).toEqual(['t', 't/shut', 't/shut/2']);
  });

  it('names an immutable file', async test => {
    const [, stone] = await disk.write('t/a', 't/stone', 't/z/b');
    if (!(await succeeds('chattr', '+i', stone as string))) return test.skip('chattr +i does not work here');
    try {
      expect(await disk.delete('t/')).toMatchObject({
        outcome: 'dead',
        objects: 2,
        error: expect.stringMatching(/t\/stone": EPERM.*immutable/),
      });
      expect(await disk.delete('t/stone')).toMatchObject({ outcome: 'dead', objects: 0 });
      expect(await disk.list()).toEqual(['t', 't/stone']);
    } finally {
      await run('chattr', '-i', stone as string);
    }
  });

  it('deletes nothing more in a call that was given up, and lets go of its descriptors', async () => {
    await disk.write('t/1', 't/2', 't/d/3', 'single');
    for (let giveUp = 1; giveUp <= 5; giveUp += 1) {
      const before = await disk.list();
      const left: Promise<unknown>[] = [];
      const context = giveUpFrom(giveUp, left, disk);
      const results = [
        await disk.handler.delete([disk.cleanup('single')], giveUpFrom(Math.min(giveUp, 2), left, disk)),
        await disk.handler.delete([disk.cleanup('t/')], context),
      ].flat();
      for (const result of results) expect(result.outcome).toBe('unavailable');
      const deleted = results.reduce((sum, result) => sum + result.objects, 0);
      await Promise.allSettled(left);
      const files = (list: string[]) => list.filter(name => /\d$|single/.test(name)).length;
      expect(files(await disk.list())).toBe(files(before) - deleted);
    }
    if (linux) await vi.waitFor(async () => expect(await openBelow(disk.base)).toEqual([]));
  });

  it('lets go of all descriptors', async test => {
    if (!linux) return test.skip('needs /proc');
    await disk.write(...Array.from({ length: 100 }, (_, n) => `t/${n}/x/${n}`), 'single');
    await disk.delete('t/');
    await disk.delete('single');
    await disk.delete('gone/x/');
    await vi.waitFor(async () => expect(await openBelow(disk.base)).toEqual([]));
  });
});

describe.runIf(linux)('trees on Linux', () => {
  let disk: Disk;
  beforeEach(async () => {
    disk = await Disk.create();
  });
  afterEach(() => disk.remove());

  it('deletes a chain of 1,000 levels, longer than any path may be, with few descriptors', async () => {
    makeChain(disk.at('t'), 1000);
    const context = disk.context();
    let most = 0;
    context.beforeCall(async call => {
      if (call % 50 === 0) most = Math.max(most, (await openBelow(disk.base)).length);
    });
    const inspected = await disk.handler.inspect(disk.cleanup('t/'), disk.context());
    expect(inspected).toMatchObject({ exists: true, objects: 1000 });
    expect(await disk.delete('t/', {}, context)).toMatchObject({ outcome: 'deleted', objects: 1000 });
    expect(most).toBeGreaterThan(1);
    expect(most).toBeLessThan(100);
    expect(await disk.list()).toEqual([]);
  });

  it('gets on in a chain of directories without files, whatever little time it is given', async () => {
    await mkdir(disk.at(`t/${'d/'.repeat(20)}`), { recursive: true });
    let slices = 0;
    for (let ended = false; !ended; slices += 1) {
      const context = disk.context();
      context.yieldWhen(() => true);
      ended = (await disk.delete('t/', {}, context)).outcome === 'deleted';
      expect(slices).toBeLessThan(30);
    }
    expect(slices).toBe(21);
  });

  it('deletes names that are not valid UTF-8', async () => {
    await mkdir(disk.at('t'));
    const bytes = (...parts: (string | number[])[]) =>
      Buffer.concat([Buffer.from(`${disk.path}/t/`), ...parts.map(part => Buffer.from(part as string))]);
    await mkdir(bytes([0xff, 0xfe]));
    await writeFile(bytes([0xff, 0xfe], '/', [0xc3, 0x28]), 'x');
    await writeFile(bytes('latin1-', [0xe9]), 'x');
    await writeFile(bytes('line\nbreak\u001b[31m'), 'x');
    // What a decoder would take the first for.
    await writeFile(bytes('\ufffd\ufffd'), 'x');
    const inspected = await disk.handler.inspect(disk.cleanup('t/'), disk.context());
    expect(inspected).toMatchObject({ exists: true, objects: 4 });
    expect(await disk.delete('t/')).toMatchObject({ outcome: 'deleted', objects: 4 });
    expect(await exists(disk.at('t'))).toBe(false);
  });

  it('escapes what a name would do to a terminal', async test => {
    await mkdir(disk.at('t'));
    const nasty = disk.at('t/a\n\u001b[31m\u0085');
    await writeFile(nasty, 'x');
    if (!(await succeeds('chattr', '+i', nasty))) return test.skip('chattr +i does not work here');
    try {
      const result = await disk.delete('t/');
      expect(result).toMatchObject({ error: expect.stringContaining('a\\n\\u001b[31m\\u0085') });
    } finally {
      await run('chattr', '-i', nasty);
      unlinkSync(nasty);
    }
  });
});

/** The paths of this process's open descriptors below a directory. */
async function openBelow(directory: string): Promise<string[]> {
  const all = await readdir('/proc/self/fd');
  const paths = await Promise.all(all.map(fd => readlink(`/proc/self/fd/${fd}`).catch(() => '')));
  return paths.filter(path => path.startsWith(directory));
}

/** A context that gives up every storage call from one on as soon as it has begun, and leaves it behind. */
function giveUpFrom(first: number, left: Promise<unknown>[], disk: Disk): Context {
  const context = disk.context();
  let calls = 0;
  return {
    shouldYield: context.shouldYield,
    progress: context.progress,
    identity: context.identity,
    call(work) {
      calls += 1;
      if (calls < first) return context.call(work);
      const controller = new AbortController();
      const late = new StorageError('unavailable', 'no answer');
      left.push(work(controller.signal));
      controller.abort(late);
      return Promise.reject(late);
    },
  };
}
