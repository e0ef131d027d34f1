/** A process whose storage call hangs can end, and whoever runs it is told what is weaker than it could be. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { warnOfWeakerRoots } from '../../../src/cli/observe.ts';
import { createFileHandler } from '../../../src/handlers/file/index.ts';
import { createLogger } from '../../../src/log.ts';
import { Disk } from './disk.ts';

let disk: Disk;
beforeEach(async () => {
  disk = await Disk.create();
});
afterEach(() => disk.remove());

/**
 * Runs a script whose storage call is in the thread of `worker`, and tells how its process has ended. The call is given up
 * once it has written the file `begun`.
 */
async function end(worker: string): Promise<{ code: number | null; signal: string | null; said: string }> {
  const file = join(disk.base, 'worker.mjs');
  writeFileSync(file, worker);
  const source = (path: string) => JSON.stringify(new URL(`../../../src/${path}`, import.meta.url).href);
  const script = `
    import { existsSync } from 'node:fs';
    import { Threads } from ${source('handlers/file/threads.ts')};
    import { endHanging } from ${source('cli/leave.ts')};
    const threads = new Threads(${JSON.stringify(file)});
    const order = { place: { root: 'r', pinned: true, recorded: undefined } };
    const give = new AbortController();
    const look = setInterval(() => {
      if (!existsSync(${JSON.stringify(join(disk.base, 'begun'))})) return;
      clearInterval(look);
      // It is one statement away from the system call.
      setTimeout(() => give.abort(), 500);
    }, 20);
    threads.run('quick', 'verify', order, { signal: give.signal }).catch(() => {}).then(async () => {
      clearInterval(look);
      threads.close();
      await endHanging(message => console.log(message));
      process.exit(0);
    });`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let said = '';
  child.stdout.on('data', chunk => {
    said += chunk;
  });
  const [code, signal] = await once(child, 'close');
  return { code, signal, said };
}

describe.runIf(process.platform === 'linux')('a process', () => {
  it('that would wait for a thread in the kernel without end kills itself, and says so', async () => {
    const fifo = join(disk.base, 'fifo');
    execFileSync('mkfifo', [fifo]);
    const hangs = `import { openSync, writeFileSync } from 'node:fs';
      export const verify = () => {
        writeFileSync(${JSON.stringify(join(disk.base, 'begun'))}, '');
        return { value: openSync(${JSON.stringify(fifo)}, 'r') };
      };`;
    expect(await end(hangs)).toMatchObject({ signal: 'SIGKILL', said: expect.stringContaining('hangs') });
  });

  it('whose threads answer ends as it was told', async () => {
    expect(await end('export const verify = () => ({ value: 1 });')).toEqual({
      ...{ code: 0, signal: null, said: '' },
    });
  });
});

it('says at the start and to `check` that roots are deleted from by paths, where that is so', async () => {
  const lines: string[] = [];
  const log = createLogger('info', { write: line => void lines.push(line) });
  warnOfWeakerRoots([disk.root, 's3://bucket/'], log, true);
  expect(lines).toEqual([]);
  warnOfWeakerRoots([disk.root, 's3://bucket/'], log, false);
  expect(lines.map(line => JSON.parse(line))).toMatchObject([{ event: 'weaker_root', root: disk.root }]);
  for (const pinned of [true, false]) {
    const handler = createFileHandler({ pinned });
    expect(await handler.advise?.(disk.root, disk.context())).toHaveLength(pinned ? 0 : 1);
    await handler.close?.();
  }
});
