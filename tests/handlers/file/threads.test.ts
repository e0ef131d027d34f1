/** The threads: what becomes of an order that never comes back, and that the daemon's own thread stays free. */
import { execFileSync } from 'node:child_process';
import { closeSync, constants, openSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { StorageError } from '../../../src/handlers/contract.ts';
import { deleteFiles } from '../../../src/handlers/file/files.ts';
import { createJobs, type Job } from '../../../src/handlers/file/job.ts';
import { singles } from '../../../src/handlers/file/singles.ts';
import { Threads } from '../../../src/handlers/file/threads.ts';
import { deleteTree } from '../../../src/handlers/file/tree.ts';
import { walk } from '../../../src/handlers/file/walk.ts';
import { Disk } from './disk.ts';

const WORK = { walk, singles };

/** Hangs in a system call, as on a dead network mount, when told to. */
const HANGS = `
  import { openSync, writeFileSync } from 'node:fs';
  import { threadId } from 'node:worker_threads';
  export const verify = ({ place }) => {
    if (place.root === 'fails') return { failure: { kind: 'permanent', message: 'as classified', storeDown: false } };
    if (place.root === 'slow') {
      for (const end = performance.now() + 1; performance.now() < end; );
      return { value: 'answered' };
    }
    // Until somebody opens the other end.
    if (place.root !== 'answers') writeFileSync(place.root + '.' + threadId, '');
    if (place.root !== 'answers') openSync(place.root, 'r');
    return { value: 'answered' };
  };
`;

describe.runIf(process.platform === 'linux')('threads', () => {
  let disk: Disk;
  let threads: Threads;
  let fifo: string;
  beforeEach(async () => {
    disk = await Disk.create();
    const worker = join(disk.base, 'worker.mjs');
    writeFileSync(worker, HANGS);
    threads = new Threads(worker);
    fifo = join(disk.base, 'fifo');
    execFileSync('mkfifo', [fifo]);
  });
  afterEach(async () => {
    letGo();
    threads.close();
    await disk.remove();
  });

  const order = (root: string) => ({ place: { root, pinned: true, recorded: undefined } });
  /** Opens the other end: whoever hangs comes back. */
  const letGo = () => {
    try {
      closeSync(openSync(fifo, constants.O_WRONLY | constants.O_NONBLOCK));
    } catch {
      // Nobody hangs.
    }
  };

  it('that hang in a system call are given up, replaced, and gone when the call comes back', async () => {
    const give = new AbortController();
    let stopped = 0;
    // More than there are threads: the last ones wait for one.
    const hung = Array.from({ length: 10 }, () =>
      threads.run('quick', 'verify', order(fifo), {
        signal: give.signal,
        stop: () => {
          stopped += 1;
        },
      }),
    );
    const settled = Promise.allSettled(hung);
    await vi.waitFor(
      () => expect(readdirSync(disk.base).filter(name => /^fifo\./.test(name))).toHaveLength(8),
      { timeout: 20_000 },
    );
    give.abort();
    expect((await settled).map(({ status }) => status)).toEqual(Array(10).fill('rejected'));
    expect(stopped).toBe(10);
    expect(threads.hangingIn(fifo)).toBe(8);
    expect(await threads.run('quick', 'verify', order('answers'))).toBe('answered');
    await vi.waitFor(
      () => {
        letGo();
        expect(threads.hangingIn(fifo)).toBe(0);
      },
      { timeout: 20_000 },
    );
  });

  it('carry out an order that waits for a thread which is given up and comes back just then', async () => {
    for (let round = 0; round < 100; round += 1) {
      const give = new AbortController();
      // A single thread: the second waits for it, or for its successor.
      const given = threads.run('looks', 'verify', order('slow'), { signal: give.signal });
      const waiting = threads.run('looks', 'verify', order('slow'));
      given.catch(() => {});
      await new Promise(resolve => setTimeout(resolve, Math.random() * 3));
      give.abort();
      expect(await waiting).toBe('answered');
    }
  });

  it.each(['single', 'tree/'])(
    'count what was deleted once, and as deleted, when an order is carried out twice: %s',
    async target => {
      const [file] = await disk.write('single', 'tree/a/1', 'tree/2');
      const { blocks } = statSync(file as string);
      const [job] = createJobs([disk.cleanup(target)], disk.root) as [Job];
      const place = { root: disk.root, pinned: true, recorded: disk.identity };
      // The first thread is ended before it can answer.
      const twice = {
        freeForTrees: () => 4,
        run: async (_: unknown, what: 'walk' | 'singles', order: never) => {
          WORK[what](order);
          const answer = WORK[what](order) as { value: unknown };
          return answer.value;
        },
      } as unknown as Threads;
      const context = disk.context();
      if (target === 'tree/') job.result = await deleteTree(job, place, twice, context);
      else await deleteFiles([job], place, twice, context);
      const files = target === 'tree/' ? 2 : 1;
      expect(job.result).toEqual({ outcome: 'deleted', objects: files, bytes: files * blocks * 512 });
    },
  );

  it('give a classified failure as one', async () => {
    const thrown = await threads.run('quick', 'verify', order('fails')).catch((error: unknown) => error);
    expect(thrown).toBeInstanceOf(StorageError);
    expect(thrown).toMatchObject({ kind: 'permanent', message: 'as classified' });
  });

  it('of one kind that all hang do not hold up those of another', async () => {
    const give = new AbortController();
    const hung = Array.from({ length: 8 }, () =>
      threads.run('trees', 'verify', order(fifo), { signal: give.signal }),
    );
    const settled = Promise.allSettled(hung);
    expect(await threads.run('quick', 'verify', order('answers'))).toBe('answered');
    give.abort();
    await settled;
  });

  it('of one root that all hang do not hold up another root, nor does having given up too many of them', async () => {
    for (let round = 0; round < 2; round += 1) {
      const give = new AbortController();
      const hung = Array.from({ length: 8 }, () =>
        threads.run('quick', 'verify', order(fifo), { signal: give.signal }),
      );
      const settled = Promise.allSettled(hung);
      await vi.waitFor(
        () =>
          expect(readdirSync(disk.base).filter(name => /^fifo\./.test(name))).toHaveLength(8 * (round + 1)),
        { timeout: 20_000 },
      );
      expect(await threads.run('quick', 'verify', order('answers'))).toBe('answered');
      give.abort();
      await settled;
    }
    await expect(threads.run('quick', 'verify', order(fifo))).rejects.toMatchObject({ kind: 'unavailable' });
    expect(await threads.run('quick', 'verify', order('answers'))).toBe('answered');
  });
});

it("the daemon's own thread goes on while a tree is deleted", async () => {
  const disk = await Disk.create();
  try {
    await disk.write(...Array.from({ length: 10_000 }, (_, n) => `t/${n % 10}/${n}`));
    let turns = 0;
    let ended = false;
    const count = () => {
      turns += 1;
      if (!ended) setImmediate(count);
    };
    count();
    const result = await disk.delete('t/');
    ended = true;
    expect(result).toMatchObject({ outcome: 'deleted', objects: 10_000 });
    // On this thread, each of its calls would be one turn.
    expect(turns).toBeGreaterThan(100);
  } finally {
    await disk.remove();
  }
});
