/**
 * Deleting trees, beside `rm -rf`, `fs.promises.rm` and rimraf: the same trees, in turn, on a disk and in memory, medians:
 * `npm run bench:trees -- [rounds] [disk|memory|rss] [part of a tree's name] [contestants]`.
 * On a disk, what each deletion took is told on standard error as it goes. All trees of a kind stand there before the first is
 * deleted, but large ones: ext4 without a journal leaves inodes that were freed in the last minute alone, and looking for
 * others makes creating a file forty times as slow.
 *
 * Ours is the built file handler as the daemon calls it, mark and accounting included, its threads started; the others have
 * what they need to know by then, too, but `rm`, which is started as a process (1 to 2 ms). What a deletion leaves for later
 * (a journal, discarded blocks) is synced before the next begins, outside of the measured time.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseTarget } from '../src/target.ts';
import { createTestContext } from '../tests/handlers/context.ts';
import { importPeer, installPeers } from './contestants/peers.ts';
import { machine, median } from './stage.ts';

const ROUNDS = Number(process.argv[2] ?? 5);
const WHERE = process.argv[3] ?? '';
const ONLY = process.argv[4] ?? '';
const WHO = process.argv[5]?.split(',');

const CONTENT = Buffer.alloc(4_096, 'x');

interface Tree {
  readonly name: string;
  readonly make: (at: string) => void;
  /** So large that they are made one at a time. */
  readonly oneAtATime?: boolean;
  /** Most that ours may take, as a share of `rm -rf`, on a disk and in memory. */
  readonly limits: { readonly disk?: number; readonly memory?: number };
}

function folders(count: number, files: number): (at: string) => void {
  return at => {
    for (let folder = 0; folder < count; folder += 1) {
      mkdirSync(join(at, `${folder}`), { recursive: true });
      for (let file = 0; file < files; file += 1) writeFileSync(join(at, `${folder}`, `${file}`), CONTENT);
    }
  };
}

function chain(levels: number): (at: string) => void {
  return at => {
    let directory = at;
    for (let level = 0; level < levels; level += 1) {
      mkdirSync(directory);
      writeFileSync(join(directory, 'file'), CONTENT);
      directory = join(directory, 'level');
    }
  };
}

/** Really written: blocks that are only reserved are given back faster. */
function large(count: number, megabytes: number): (at: string) => void {
  return at => {
    mkdirSync(at);
    for (let file = 0; file < count; file += 1) {
      execFileSync('dd', ['if=/dev/zero', `of=${join(at, `${file}`)}`, 'bs=1M', `count=${megabytes}`], {
        stdio: 'ignore',
      });
    }
  };
}

const TREES: readonly Tree[] = [
  { name: '50,000 files in 500 directories', make: folders(500, 100), limits: { disk: 0.65, memory: 1.8 } },
  { name: '100,000 files in one directory', make: folders(1, 100_000), limits: { disk: 1.4, memory: 1.8 } },
  { name: 'a chain of 200 levels', make: chain(200), limits: { disk: 1.4, memory: 1.8 } },
  { name: '20 files of 500 MB', make: large(20, 500), oneAtATime: true, limits: { disk: 1.4 } },
];

installPeers();
const { rimraf } = await importPeer<{ rimraf: (path: string) => Promise<boolean> }>('rimraf');
const built = new URL('../dist/index.js', import.meta.url).href;
const { createFileHandler } = (await import(built)) as typeof import('../src/index.ts');
const handler = createFileHandler();

async function compare(base: string, where: 'disk' | 'memory'): Promise<void> {
  const directory = realpathSync(mkdtempSync(join(base, 'afterdelete-trees-')));
  const root = `file://${directory}/`;
  try {
    const identity = await handler.identify?.(root, { create: true });
    const context = createTestContext({ slots: 16, identity: () => identity });
    const ours = async (path: string) => {
      const target = parseTarget(`file://${path}/`);
      const [result] = await handler.delete(
        [{ id: '1', target, root, pruneParents: 0, attempt: 0 }],
        context,
      );
      if (result?.outcome !== 'deleted') throw new Error(`it was not deleted: ${JSON.stringify(result)}`);
    };
    const contestants: Record<string, (path: string) => unknown> = {
      afterdelete: ours,
      'rm -rf': path => execFileSync('rm', ['-rf', path]),
      'fs.rm': path => rm(path, { recursive: true }),
      rimraf: path => rimraf(path),
    };
    for (const { name, make, oneAtATime, limits } of TREES) {
      const limit = limits[where];
      if (limit === undefined || !name.includes(ONLY)) continue;
      const times: Record<string, number[]> = {};
      const ahead = where === 'disk' && !oneAtATime;
      const names = Object.keys(contestants).filter(who => WHO?.includes(who) ?? true);
      const pathOf = (contestant: string, round: number) => join(directory, `tree-${contestant}-${round}`);
      if (ahead) {
        for (let round = -1; round < ROUNDS; round += 1) for (const who of names) make(pathOf(who, round));
        execFileSync('sync');
      }
      for (let round = -1; round < ROUNDS; round += 1) {
        // Each is first as often as last. The round before the first warms up.
        const turn = names.map((_, n) => names[(n + round + 1) % names.length] as string);
        for (const contestant of turn) {
          const path = pathOf(contestant, round);
          if (!ahead) make(path);
          if (where === 'disk' && !ahead) execFileSync('sync');
          const start = performance.now();
          await contestants[contestant]?.(path);
          const ms = performance.now() - start;
          if (existsSync(path)) throw new Error(`${contestant} has left something`);
          if (where === 'disk') execFileSync('sync');
          if (where === 'disk')
            console.error(`${name}: round ${round + 1}: ${contestant} ${ms.toFixed(0)} ms`);
          if (round < 0) continue;
          times[contestant] ??= [];
          times[contestant].push(ms);
        }
      }
      const medians = Object.entries(times).map(([who, all]) => [who, median(all)] as const);
      const of = new Map(medians);
      const mine = of.get('afterdelete') ?? Number.NaN;
      const ratio = mine / (of.get('rm -rf') ?? Number.NaN);
      const toNode = mine / (of.get('fs.rm') ?? Number.NaN);
      const told = medians.map(([who, ms]) => `${who} ${ms.toFixed(ms < 100 ? 1 : 0)} ms`).join(', ');
      const beside = Number.isNaN(toNode) ? '' : `, ÷ fs.rm ${toNode.toFixed(2)} (at most 1)`;
      const verdict = ratio <= limit && !(toNode > 1) ? 'ok' : 'NOT MET';
      console.log(
        `${where}: ${name}: ${told}; ours ÷ rm -rf ${ratio.toFixed(2)} (at most ${limit})${beside}: ${verdict}`,
      );
    }
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Memory while a tree of a million files goes, in MB: at its first tenth and at the most after that. */
async function watchMemory(base: string): Promise<void> {
  const directory = realpathSync(mkdtempSync(join(base, 'afterdelete-trees-')));
  const root = `file://${directory}/`;
  try {
    const identity = await handler.identify?.(root, { create: true });
    for (const [name, count, files] of [
      ['1,000,000 files in 1,000 directories', 1_000, 1_000],
      ['1,000,000 files in one directory', 1, 1_000_000],
      ['1,000,000 directories in one', 1_000_000, 0],
    ] as const) {
      if (!name.includes(ONLY)) continue;
      for (let folder = 0; folder < count; folder += 1) {
        mkdirSync(join(directory, 'tree', `${folder}`), { recursive: true });
        for (let file = 0; file < files; file += 1)
          writeFileSync(join(directory, 'tree', `${folder}`, `${file}`), '');
      }
      const context = createTestContext({ slots: 16, identity: () => identity });
      const samples: number[] = [];
      const timer = setInterval(() => samples.push(process.memoryUsage.rss() / 2 ** 20), 20);
      const target = parseTarget(`file://${directory}/tree/`);
      const start = performance.now();
      const [result] = await handler.delete(
        [{ id: '1', target, root, pruneParents: 0, attempt: 0 }],
        context,
      );
      const seconds = (performance.now() - start) / 1000;
      clearInterval(timer);
      const tenth = samples[Math.floor(samples.length / 10)] ?? Number.NaN;
      console.log(
        `memory: ${name}: ${result?.objects} in ${seconds.toFixed(1)} s; RSS ${tenth.toFixed(0)} MB after a tenth, at most ${Math.max(...samples).toFixed(0)} MB`,
      );
    }
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

if (WHERE === '' || WHERE === 'disk') await compare(tmpdir(), 'disk');
if (WHERE === '' || WHERE === 'memory') await compare('/dev/shm', 'memory');
if (WHERE === '' || WHERE === 'rss') await watchMemory('/dev/shm');
await handler.close?.();
console.log(machine());
