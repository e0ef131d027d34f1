import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { chmod, link, mkdir, stat, symlink, writeFile } from 'node:fs/promises';
import { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type Context, StorageError } from '../../../src/handlers/contract.ts';
import { TreeMemory } from '../../../src/handlers/file/memory.ts';
import { UNTOUCHED } from '../../../src/handlers/file/orders.ts';
import { walk } from '../../../src/handlers/file/walk.ts';
import { deleteAsAnother } from './another-user.ts';
import { Disk, exists, openBelow, run, succeeds } from './disk.ts';

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
    await disk.write(...Array.from({ length: 5000 }, (_, n) => `t/${n}`), 't/d/x', 't/e/x');
    const context = disk.context();
    expect(await disk.delete('t/', {}, context)).toMatchObject({ outcome: 'deleted', objects: 5002 });
    expect(context.calls).toBeGreaterThan(2);
    expect(await disk.list()).toEqual([]);
  });

  it('deletes the files of one directory in shares, each file once and none left out', async () => {
    await disk.write(...Array.from({ length: 500 }, (_, n) => `t/file-${n}`), 't/d/x');
    const memory = TreeMemory.for(4);
    const place = { root: disk.root, pinned, recorded: disk.identity };
    const counts = [0, 1, 2].map(n => {
      const before = memory.receipt.objects;
      const item = { ...UNTOUCHED, up: -1, address: ['t'], share: { n, of: 3, after: 0 } };
      const answer = walk({ place, items: [item], first: false, lane: n, ms: 10_000, memory: memory.buffer });
      expect(answer).toMatchObject({ value: { left: [], ended: [{ item: 0, spoiled: false }] } });
      return memory.receipt.objects - before;
    });
    expect(counts.reduce((sum, count) => sum + count)).toBe(500);
    for (const count of counts) expect(count).toBeGreaterThan(50);
    expect(await disk.list()).toEqual(['t', 't/d', 't/d/x']);
  });

  it('tells how far it has come, never more than there was', async () => {
    await disk.write(...Array.from({ length: 4500 }, (_, n) => `t/${n}`));
    const context = disk.context();
    const cleanup = disk.cleanup('t/');
    await disk.handler.delete([cleanup], context);
    const told = (context.reports.get(cleanup.id) ?? []).map(({ objects }) => objects);
    expect(told.length).toBeGreaterThan(1);
    expect(told).toEqual([...told].sort((a, b) => a - b));
    expect(told.at(-1)).toBe(4500);
  });

  it('deletes several directories at a time, up to the slots', async () => {
    const paths = Array.from({ length: 4000 }, (_, n) => `t/${n % 40}/${n}`);
    await disk.write(...paths);
    const context = disk.context({ slots: 2 });
    expect(await disk.delete('t/', {}, context)).toMatchObject({ outcome: 'deleted', objects: 4000 });
    expect(context.mostAtOnce).toBe(2);
  });

  it('retries a tree in which somebody still writes, and names it', async () => {
    const outcomes = new Set<string>();
    // Whether it writes between the last look and the rmdir is a matter of luck: as often as it takes.
    const end = performance.now() + 100_000;
    while (!outcomes.has('retry') && performance.now() < end) {
      await disk.write('t/a/file');
      const writer = new Worker(WRITER, { eval: true, workerData: disk.at('t') });
      try {
        await once(writer, 'message');
        const result = await disk.delete('t/');
        outcomes.add(result.outcome);
        if (result.outcome === 'retry') {
          expect(result).toMatchObject({
            objects: 1,
            error: expect.stringMatching(/t": ENOTEMPTY.*still writes there/),
          });
        }
      } finally {
        await writer.terminate();
      }
    }
    expect(outcomes).toContain('retry');
    expect(await disk.delete('t/')).toMatchObject({ outcome: 'deleted', objects: 0 });
  }, 120_000);

  it('retries when a directory becomes a link under its hands, and the link goal keeps its files', async () => {
    await disk.write('victim/file', 't/b/file');
    symlinkSync(disk.at('victim'), disk.at('t/a'));
    // As if both had been found to be directories when the tree was listed.
    const items = ['a', 'b'].map(name => ({ ...UNTOUCHED, up: -1, address: ['t', name] }));
    const memory = TreeMemory.for(1);
    const answer = walk({
      place: { root: disk.root, pinned, recorded: disk.identity },
      ...{ items, first: false, lane: 0, ms: 60_000, memory: memory.buffer },
    });
    expect(answer).toMatchObject({
      value: {
        left: [],
        ended: [
          { item: 1, spoiled: false },
          { item: 0, spoiled: true },
        ],
        worst: {
          kind: 'transient',
          message: expect.stringMatching(/t\/a" was a directory, and is now a symlink/),
        },
      },
    });
    expect(memory.receipt.objects).toBe(1);
    expect(await disk.delete('t/')).toMatchObject({ outcome: 'deleted', objects: 1 });
    expect(await disk.list()).toEqual(['victim', 'victim/file']);
  });

  it('passes by what cannot be deleted, in any number of calls, and counts each once', async test => {
    const paths = Array.from({ length: 5000 }, (_, n) => `t/${n}`);
    await disk.write(...paths);
    const stones = paths.filter((_, n) => n % 100 === 0).map(path => disk.at(path));
    if (!(await succeeds('chattr', '+i', ...stones))) return test.skip('chattr +i does not work here');
    try {
      expect(await disk.delete('t/')).toMatchObject({
        outcome: 'dead',
        objects: 4950,
        error: expect.stringMatching(/EPERM.*\(and 49 more/),
      });
    } finally {
      await run('chattr', '-i', ...stones);
    }
    expect(await disk.delete('t/')).toMatchObject({ outcome: 'deleted', objects: 50 });
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

  it('deletes nothing more in a call that was given up, counts what went before, and lets go of its descriptors', async () => {
    const size = 12_000;
    await disk.write(...Array.from({ length: size }, (_, n) => `t/${n % 3}/${n}`), 'single');
    const moments: Moment[] = [1, 2, 3].map(first => call => call >= first);
    // A call may be so short, on a machine that is busy, that it deletes nothing: this goes on until one has.
    moments.push((_, filesLeft) => filesLeft() < size);
    for (const [round, mayGiveUp] of moments.entries()) {
      if (round === 3) await disk.write(...Array.from({ length: size }, (_, n) => `t/${n % 3}/${n}`));
      const before = await countFiles(disk);
      const working: Promise<unknown>[] = [];
      const results = [
        await disk.handler.delete(
          [disk.cleanup('single')],
          givingUp(() => true, working, disk),
        ),
        await disk.handler.delete([disk.cleanup('t/')], givingUp(mayGiveUp, working, disk)),
      ].flat();
      // The file may have gone in the moment between.
      expect(['deleted', 'unavailable', 'absent']).toContain(results[0]?.outcome);
      expect(results[1]?.outcome).toBe('unavailable');
      await Promise.allSettled(working);
      const gone = before - (await countFiles(disk));
      // What a call does between being given up and hearing of it is one entry, in each of the threads.
      const deleted = results.reduce((all, result) => all + result.objects, 0);
      expect(deleted).toBeLessThanOrEqual(gone);
      expect(gone - deleted).toBeLessThanOrEqual(4);
      if (round === 3) expect(deleted).toBeGreaterThan(0);
    }
    if (linux) await vi.waitFor(async () => expect(openBelow(disk.base)).toEqual([]), { timeout: 20_000 });
  });

  it('lets go of all descriptors', async test => {
    if (!linux) return test.skip('needs /proc');
    await disk.write(...Array.from({ length: 100 }, (_, n) => `t/${n}/x/${n}`), 'single');
    await disk.delete('t/');
    await disk.delete('single');
    await disk.delete('gone/x/');
    await vi.waitFor(async () => expect(openBelow(disk.base)).toEqual([]), { timeout: 20_000 });
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
    let most = 0;
    const timer = setInterval(() => {
      most = Math.max(most, openBelow(disk.base).length);
    }, 1);
    try {
      const inspected = await disk.handler.inspect(disk.cleanup('t/'), disk.context());
      expect(inspected).toEqual({ exists: true, objects: 1000, bytes: expect.any(Number) });
      expect(await disk.delete('t/')).toMatchObject({ outcome: 'deleted', objects: 1000 });
    } finally {
      clearInterval(timer);
    }
    expect(most).toBeGreaterThan(1);
    expect(most).toBeLessThan(140);
    expect(await disk.list()).toEqual([]);
  });

  it('gets on, with files or directories alone, whatever little time it is given', async () => {
    await disk.write(...Array.from({ length: 5000 }, (_, n) => `files/${n}`));
    for (let n = 0; n < 3000; n += 1) await mkdir(disk.at(`folders/${n}`), { recursive: true });
    for (const path of ['files/', 'folders/']) {
      let slices = 0;
      for (let ended = false; !ended; slices += 1) {
        const context = disk.context();
        context.yieldWhen(() => true);
        const result = await disk.delete(path, {}, context);
        ended = result.outcome === 'deleted';
        if (!ended) expect(result).toMatchObject({ outcome: 'yielded', progressed: true });
      }
      expect(slices).toBeGreaterThan(2);
    }
    expect(await disk.list()).toEqual([]);
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

async function countFiles(disk: Disk): Promise<number> {
  return (await disk.list()).filter(name => /\d\/\d+$|single/.test(name)).length;
}

/** Makes new directories in one as long as that is there, and slower than they are deleted, or there would be no end to it. */
const WRITER = `
  const { mkdirSync } = require('node:fs');
  const { parentPort, workerData } = require('node:worker_threads');
  const nothing = new Int32Array(new SharedArrayBuffer(4));
  for (let n = 0; ; n += 1) {
    try { mkdirSync(workerData + '/new-' + n); } catch { break; }
    if (n === 0) parentPort.postMessage('writing');
    Atomics.wait(nothing, 0, 0, Math.random() / 5);
  }
`;

/** Whether a storage call, the how-manieth, is given up now. */
type Moment = (call: number, filesLeft: () => number) => boolean;

/** A context that gives up storage calls at their moment and leaves them behind; those that end before are as any. */
function givingUp(mayGiveUp: Moment, left: Promise<unknown>[], disk: Disk): Context {
  const context = disk.context();
  let calls = 0;
  return {
    shouldYield: context.shouldYield,
    progress: context.progress,
    identity: context.identity,
    async call(work) {
      calls += 1;
      const call = calls;
      const controller = new AbortController();
      const working = work(controller.signal);
      let ended = false;
      left.push(
        working.then(
          () => (ended = true),
          () => (ended = true),
        ),
      );
      while (!ended) {
        if (mayGiveUp(call, () => filesLeftIn(disk))) {
          const late = new StorageError('unavailable', 'no answer');
          controller.abort(late);
          throw late;
        }
        await new Promise(resolve => setImmediate(resolve));
      }
      return working;
    },
  };
}

/** Files of the three directories of a tree. */
function filesLeftIn(disk: Disk): number {
  let files = 0;
  for (const n of [0, 1, 2])
    files += existsSync(disk.at(`t/${n}`)) ? readdirSync(disk.at(`t/${n}`)).length : 0;
  return files;
}
