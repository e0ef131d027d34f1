/** Thousands of hostile targets and trees: whatever is named and whatever stands there, nothing outside the root is touched. */
import { execFileSync } from 'node:child_process';
import {
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Target } from '../../../src/target.ts';
import { quickPlace } from '../../support/memory.ts';
import { Disk, exists, succeeds } from './disk.ts';

const modes = process.platform === 'linux' ? [true, false] : [false];

/** Everything below a directory with all that a deletion could change: names, kinds, sizes, times of change, link counts. */
function picture(directory: string): string[] {
  const names = readdirSync(Buffer.from(directory, 'latin1'), { encoding: 'latin1' });
  return names.sort().flatMap(name => {
    const path = `${directory}/${name}`;
    const found = lstatSync(Buffer.from(path, 'latin1'));
    const line = `${path} ${found.mode} ${found.size} ${found.ino} ${found.mtimeMs} ${found.nlink}`;
    return found.isDirectory() ? [line, ...picture(path)] : [line];
  });
}

/** Kinds of files that no data can be written to. */
const SPECIAL = ['fifo', 'socket', 'device'] as const;

/** What lies beside the root, with the names that are deleted below it. Resolves to what ends the socket. */
async function makeOutside(base: string): Promise<Server> {
  mkdirSync(join(base, 'outside/a/b'), { recursive: true });
  for (const path of ['outside/file', 'outside/a/file', 'outside/a/b/file', 'root2', 'file']) {
    writeFileSync(join(base, path), 'precious');
  }
  execFileSync('mkfifo', [join(base, 'outside/fifo')]);
  // Only root may; without, no tree has one.
  await succeeds('mknod', join(base, 'outside/device'), 'c', '1', '3');
  const server = createServer().listen(join(base, 'outside/socket'));
  await new Promise(resolve => server.once('listening', resolve));
  return server;
}

const segment = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom('a', 'b', 'file', 'link', 'loop', 'up', 'out') },
  {
    weight: 3,
    arbitrary: fc.constantFrom('.', '..', '', '...', '~', '-rf', '*', '%2e%2e', '.afterdelete-root'),
  },
  fc.constantFrom('\0', '\n', '\\', 'x'.repeat(255), 'x'.repeat(256), '\u2025', '\ud800', 'ö', '../outside'),
  fc.constantFrom(...SPECIAL, 'hard', 'ring', 'ring2'),
  fc.string({ maxLength: 12, unit: 'binary' }),
);
const hostilePath = fc
  .tuple(
    fc.constantFrom('', '/', '//', '/../', '../', './', '/proc/self/cwd/', '/dev/fd/0/'),
    fc.array(segment, { maxLength: 8 }),
    fc.constantFrom('', '/', '//', '/.', '/..'),
  )
  .map(([before, names, after]) => `${before}${names.join('/')}${after}`);

/** What is there already, or cannot be here, is left. */
function put(make: () => void): boolean {
  try {
    make();
    return true;
  } catch {
    return false;
  }
}

describe.each(modes)('hostile targets (pinned: %s)', pinned => {
  let disk: Disk;
  let server: Server;
  beforeEach(async () => {
    disk = await Disk.create({ pinned }, quickPlace());
    server = await makeOutside(disk.base);
    await stand();
  });
  afterEach(() => {
    server.close();
    return disk.remove();
  });

  /** What the targets may hit. What was rightly deleted is there again for the next. */
  async function stand(): Promise<void> {
    const long = 'x'.repeat(255);
    await disk.write('a/b/file', 'a/file', 'file', `${long}/${long}`);
    const links = {
      ...{ out: '../outside', 'a/link': join(disk.base, 'outside/a'), 'a/up': '../..' },
      ...{ loop: 'loop', ring: 'ring2', ring2: 'ring' },
    };
    for (const [path, goal] of Object.entries(links)) put(() => symlinkSync(goal, disk.at(path)));
    for (const kind of SPECIAL) put(() => linkSync(join(disk.base, 'outside', kind), disk.at(kind)));
    put(() => linkSync(join(disk.base, 'outside/file'), disk.at('hard')));
  }

  /** As a target would be taken apart by whoever does not look at what it says. */
  const raw = (path: string): Target => ({
    ...{ text: `file://${path}`, scheme: 'file', authority: '', store: 'file://' },
    ...{ path, tree: path.endsWith('/') },
  });

  it('eight thousand of them', async () => {
    const outside = picture(join(disk.base, 'outside'));
    const mark = lstatSync(disk.at('.afterdelete-root')).ino;
    await fc.assert(
      fc.asyncProperty(fc.array(hostilePath, { minLength: 40, maxLength: 40 }), async paths => {
        const cleanups = paths.map((path, n) => {
          const target = raw(n % 4 === 0 ? path : `${disk.path}${path.startsWith('/') ? '' : '/'}${path}`);
          return disk.cleanup('x', { target, pruneParents: 32 });
        });
        // A tree comes alone.
        const batches = [cleanups.filter(({ target }) => !target.tree)];
        for (const cleanup of cleanups) if (cleanup.target.tree) batches.push([cleanup]);
        for (const batch of batches) {
          const results = await disk.handler.delete(batch, disk.context());
          for (const result of results) expect(result.outcome).toMatch(/^(deleted|absent|dead)$/);
        }
        await stand();
        expect(picture(join(disk.base, 'outside'))).toEqual(outside);
        expect(lstatSync(disk.at('.afterdelete-root')).ino).toBe(mark);
        expect(await exists(join(disk.base, 'file'))).toBe(true);
        expect(await exists(join(disk.base, 'root2'))).toBe(true);
      }),
      { numRuns: 200 },
    );
  });

  it('a thousand levels deep', async () => {
    const outside = picture(join(disk.base, 'outside'));
    // By paths, each level costs a look at all above it.
    const depth = pinned ? 1000 : 100;
    const deepest = 'd/'.repeat(depth);
    for (const levels of [depth + 1, depth, depth - 1, depth / 2, 1]) {
      for (const end of ['out/file', 'out/', 'out', 'up/file', 'file/', 'file', '../out', '']) {
        await disk.write(`${deepest}file`);
        put(() => symlinkSync(join(disk.base, 'outside'), disk.at(`${deepest}out`)));
        put(() => symlinkSync('../'.repeat(depth + 1), disk.at(`${deepest}up`)));
        const target = raw(`${disk.path}/${'d/'.repeat(levels)}${end}`);
        const { outcome } = await disk.delete('x', { target, pruneParents: 32 });
        expect(outcome).toMatch(/^(deleted|absent|dead)$/);
        expect(picture(join(disk.base, 'outside'))).toEqual(outside);
      }
    }
  });
});

/** What can stand in a directory. Bytes are written as latin1. */
const name = fc.oneof(
  fc.uint8Array({ minLength: 1, maxLength: 255 }).map(bytes => Buffer.from(bytes).toString('latin1')),
  fc.constantFrom('a', 'b', 'c', 'x'.repeat(255), '\xff\xfe', '\xc3(', '-rf', '*', '\n', ' ', '...', '.x'),
);
const kind = fc.constantFrom(
  'file',
  'folder',
  'out',
  'outfile',
  'loop',
  'ring',
  'up',
  'hard',
  'nowhere',
  ...SPECIAL,
);
const entry = fc.record({ name, kind, at: fc.nat(20) });

describe.runIf(process.platform === 'linux')('hostile trees', () => {
  let disk: Disk;
  let server: Server;
  beforeEach(async () => {
    disk = await Disk.create({}, quickPlace());
    server = await makeOutside(disk.base);
  });
  afterEach(() => {
    server.close();
    return disk.remove();
  });

  /** Puts an entry into one of the directories that are there; false if it cannot stand there. */
  function putInto(folders: string[], one: { name: string; kind: string; at: number }): boolean {
    if (/[/\0]/.test(one.name) || one.name === '.' || one.name === '..') return false;
    const folder = folders[one.at % folders.length] as string;
    const path = `${folder}/${one.name}`;
    const bytes = Buffer.from(path, 'latin1');
    const outside = Buffer.from(join(disk.base, 'outside'));
    return put(() => {
      if (one.kind === 'folder') {
        mkdirSync(bytes);
        folders.push(path);
      } else if (one.kind === 'out') symlinkSync(outside, bytes);
      else if (one.kind === 'outfile') symlinkSync(join(disk.base, 'outside/file'), bytes);
      else if (one.kind === 'loop') symlinkSync(Buffer.from(one.name, 'latin1'), bytes);
      // To the next name, in which another may stand that leads back.
      else if (one.kind === 'ring') symlinkSync({ a: 'b', b: 'c', c: 'a' }[one.name] ?? 'a', bytes);
      else if (one.kind === 'up') symlinkSync('../..', bytes);
      else if (one.kind === 'nowhere') symlinkSync('nowhere', bytes);
      else if (one.kind === 'hard') linkSync(join(disk.base, 'outside/file'), bytes);
      // Each has another name outside, which must stay.
      else if (SPECIAL.some(special => special === one.kind))
        linkSync(join(disk.base, 'outside', one.kind), bytes);
      else writeFileSync(bytes, 'x', { flag: 'wx' });
    });
  }

  it('two thousand of them, of links, loops, FIFOs, sockets, devices, hard links and names of any bytes', async () => {
    const outside = picture(join(disk.base, 'outside'));
    let stood = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(entry, { minLength: 1, maxLength: 30 }), async entries => {
        mkdirSync(disk.at('t'));
        const folders = [disk.at('t')];
        const stand = entries.filter(one => putInto(folders, one));
        stood += stand.length;
        const files = stand.filter(one => one.kind !== 'folder').length;
        expect(await disk.delete('t/')).toMatchObject({ outcome: 'deleted', objects: files });
        expect(await exists(disk.at('t'))).toBe(false);
        expect(picture(join(disk.base, 'outside'))).toEqual(outside);
      }),
      { numRuns: 2000 },
    );
    expect(stood).toBeGreaterThan(10_000);
  });

  it('1,000 levels deep, with links out of it and back to its top on each', async () => {
    const home = process.cwd();
    const outside = picture(join(disk.base, 'outside'));
    mkdirSync(disk.at('t'));
    try {
      process.chdir(disk.at('t'));
      for (let level = 0; level < 1000; level += 1) {
        symlinkSync(disk.at('t'), 'top');
        symlinkSync(join(disk.base, 'outside'), 'out');
        mkdirSync('d'.repeat(200));
        process.chdir('d'.repeat(200));
      }
    } finally {
      process.chdir(home);
    }
    expect(await disk.delete('t/')).toMatchObject({ outcome: 'deleted', objects: 2000 });
    expect(picture(join(disk.base, 'outside'))).toEqual(outside);
  });

  it('with sockets, and devices where they may be made', async () => {
    mkdirSync(disk.at('t'));
    const home = process.cwd();
    let server: Server | undefined;
    try {
      process.chdir(disk.at('t'));
      server = createServer().listen('socket');
      await new Promise(resolve => server?.once('listening', resolve));
    } finally {
      process.chdir(home);
    }
    const made = await succeeds('mknod', disk.at('t/null'), 'c', '1', '3');
    expect(await disk.delete('t/')).toMatchObject({ outcome: 'deleted', objects: made ? 2 : 1, bytes: 0 });
    server.close();
    expect(readlinkSync('/proc/self/cwd')).toBe(home);
    expect(await exists('/dev/null')).toBe(true);
  });
});
