import { chmodSync, closeSync, openSync } from 'node:fs';
import { mkdir, stat, symlink } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Stopped } from '../../../src/handlers/contract.ts';
import { inspect as goOn } from '../../../src/handlers/file/inspect.ts';
import { inspectAsAnother } from './another-user.ts';
import { Disk, openBelow } from './disk.ts';

describe('inspecting', () => {
  let disk: Disk;
  beforeEach(async () => {
    disk = await Disk.create();
  });
  afterEach(() => disk.remove());

  const inspect = (path: string) => disk.handler.inspect(disk.cleanup(path), disk.context());

  it('counts everything, wherever its calls come to their end', async () => {
    let path = 't';
    for (let level = 0; level < 40; level += 1, path += '/d') await disk.write(`${path}/file`);
    const place = { root: disk.root, pinned: process.platform === 'linux', recorded: disk.identity };
    const others: number[] = [];
    let now = 0;
    const clock = vi.spyOn(performance, 'now');
    try {
      for (let step = 1; step <= 60; step += 0.5) {
        // A call takes 50 ms: with each look at the clock so many of them are gone.
        clock.mockImplementation(() => (now += step));
        const order = { place, id: `${step}` };
        const target = { address: [], name: 't', tree: true };
        let answer = goOn({ ...order, target });
        while ('value' in answer && answer.value === undefined) {
          // Others open files meanwhile: no descriptor has the same number twice.
          others.push(openSync('/dev/null', 'r'));
          answer = goOn(order);
        }
        expect(answer, `${step} ms`).toEqual({
          value: { exists: true, objects: 40, bytes: expect.any(Number) },
        });
      }
    } finally {
      clock.mockRestore();
      for (const other of others) closeSync(other);
    }
    expect(openBelow(disk.base)).toEqual([]);
  });

  it('tells what one file would free', async () => {
    const [path] = await disk.write('a/file');
    const { blocks } = await stat(path as string);
    expect(await inspect('a/file')).toEqual({ exists: true, objects: 1, bytes: blocks * 512 });
  });

  it('takes a link for one object, whatever it points to', async () => {
    await disk.write('goal/1', 'goal/2');
    await symlink('goal', disk.at('link'));
    expect(await inspect('link')).toEqual({ exists: true, objects: 1, bytes: 0 });
    expect(await inspect('link/')).toEqual({ exists: true, objects: 1, bytes: 0 });
  });

  it('tells an empty directory from none', async () => {
    await mkdir(disk.at('t'));
    expect(await inspect('t/')).toEqual({ exists: true, objects: 0, bytes: 0 });
    expect(await inspect('u/')).toEqual({ exists: false, objects: 0, bytes: 0 });
  });

  it('has the words that the dead cleanup would have', async () => {
    await disk.write('t/file');
    await symlink('t', disk.at('link'));
    for (const path of ['t', 't/file/', 'link/file', 'n'.repeat(300), '.afterdelete-root']) {
      const { problem } = await inspect(path);
      const result = await disk.delete(path);
      expect(result.outcome).toBe('dead');
      expect(problem).toBe('error' in result ? result.error : undefined);
    }
    expect(await disk.list()).toEqual(['link', 't', 't/file']);
  });

  it('foresees what permissions will refuse', async test => {
    await disk.write('t/open/1', 't/shut/2');
    chmodSync(disk.at('t/shut'), 0o555);
    const [tree, single] = [await inspectAsAnother(disk, 't/'), await inspectAsAnother(disk, 't/shut/2')];
    chmodSync(disk.at('t/shut'), 0o755);
    if (!tree) return test.skip('no other user can run the handler here');
    expect(tree).toMatchObject({
      exists: true,
      objects: 2,
      problem: expect.stringMatching(/t\/shut": EACCES/),
    });
    expect(single).toMatchObject({ problem: expect.stringMatching(/t\/shut": EACCES/) });
  });

  it('looks through a large tree in several calls, with nothing counted twice or left out', async () => {
    const paths = Array.from({ length: 2500 }, (_, n) => `t/${n % 2 ? 'a/' : ''}${n}`);
    await disk.write(...paths);
    const { blocks } = await stat(disk.at('t/0'));
    const context = disk.context();
    expect(await disk.handler.inspect(disk.cleanup('t/'), context)).toEqual({
      ...{ exists: true, objects: 2500, bytes: 2500 * blocks * 512 },
    });
    expect(context.calls).toBeGreaterThan(1);
  });

  it('stops when it is told to', async () => {
    await disk.write(...Array.from({ length: 2100 }, (_, n) => `t/${n}`));
    for (const calls of [0, 1]) {
      const context = disk.context();
      context.stopAfter(calls);
      await expect(disk.handler.inspect(disk.cleanup('t/'), context)).rejects.toBeInstanceOf(Stopped);
    }
    await vi.waitFor(() => expect(openBelow(disk.path)).toEqual([]), { timeout: 20_000 });
  });
});
