/**
 * Single files beside a big tree on one root in memory: `npm run bench:beside -- [files in the tree]`.
 *
 * From COMMIT to file gone when nothing else is to be done, and while the tree is deleted; and how late the event loop of
 * the daemon is meanwhile (its own process; p99 of what is over a timer's 1 ms). All of it shares the machine's CPUs.
 */
import { existsSync, mkdirSync, mkdtempSync, rmSync, watch, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { machine, onStage, percentile } from './stage.ts';

const FILES = Number(process.argv[2] ?? 500_000);
const IN_A_FOLDER = 1_000;
const IDLE_SAMPLES = 200;
const WARM_UP = 20;
const EVERY = 20;

/** In the daemon: tells of its event loop's delay when asked to, and begins anew. */
const MONITOR = `
  import { monitorEventLoopDelay } from 'node:perf_hooks';
  import { isMainThread } from 'node:worker_threads';
  if (isMainThread) {
    const delay = monitorEventLoopDelay({ resolution: 1 });
    delay.enable();
    process.on('SIGUSR2', () => {
      const [p50, p99, most] = [delay.percentile(50), delay.percentile(99), delay.max].map(ns => ns / 1e6 - 1);
      console.log(JSON.stringify({ event: 'delay', p50, p99, most }));
      delay.reset();
    });
  }`;

interface Delay {
  readonly p99: number;
  readonly most: number;
}

const directory = mkdtempSync('/dev/shm/afterdelete-beside-');
try {
  await onStage(async ({ db, startDaemon }) => {
    const root = `file://${directory}/`;
    const daemon = await startDaemon({
      AFTERDELETE_ROOTS: root,
      NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(MONITOR)}`,
    });
    const told = new Map<string, (line: Record<string, unknown>) => void>();
    createInterface({ input: daemon.stdout as Readable }).on('line', text => {
      const line = JSON.parse(text);
      told.get(line.event)?.(line);
    });
    const delayOfLoop = () =>
      new Promise<Delay>(resolve => {
        told.set('delay', line => resolve(line as unknown as Delay));
        daemon.kill('SIGUSR2');
      });

    const client = await db.connect();
    const gone = new Map<string, (at: number) => void>();
    const watcher = watch(directory, (_, name) => gone.get(String(name))?.(performance.now()));
    let n = 0;
    const single = async () => {
      n += 1;
      const name = `single-${n}`;
      writeFileSync(join(directory, name), 'x');
      await new Promise(resolve => setTimeout(resolve, EVERY));
      const end = new Promise<number>(resolve => gone.set(name, resolve));
      await client.query('BEGIN');
      await client.query('INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ($1)', [
        `${root}${name}`,
      ]);
      await client.query('COMMIT');
      const committed = performance.now();
      const ms = (await end) - committed;
      gone.delete(name);
      return ms;
    };
    const tell = (when: string, samples: readonly number[], { p99, most }: Delay) => {
      const [p50, p95] = [0.5, 0.95].map(share => percentile(samples, share).toFixed(2));
      console.log(
        `${when}: COMMIT to file gone, ms: p50 ${p50}, p95 ${p95} (${samples.length} samples); event loop late by, ms: p99 ${p99.toFixed(1)}, at most ${most.toFixed(1)}`,
      );
    };

    for (let i = 0; i < WARM_UP; i += 1) await single();
    await delayOfLoop();
    const idle: number[] = [];
    while (idle.length < IDLE_SAMPLES) idle.push(await single());
    tell('nothing else', idle, await delayOfLoop());

    const tree = join(directory, 'tree');
    for (let file = 0; file < FILES; file += 1) {
      const folder = join(tree, `${Math.floor(file / IN_A_FOLDER)}`);
      if (file % IN_A_FOLDER === 0) mkdirSync(folder, { recursive: true });
      writeFileSync(join(folder, `${file}`), '');
    }
    await delayOfLoop();
    const start = performance.now();
    await client.query('INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ($1)', [`${root}tree/`]);
    const beside: number[] = [];
    while (existsSync(tree)) beside.push(await single());
    const seconds = (performance.now() - start) / 1_000;
    const delay = await delayOfLoop();
    tell(`beside a tree of ${FILES} files, gone in ${seconds.toFixed(1)} s`, beside, delay);
    watcher.close();
    const more = percentile(beside, 0.95) - percentile(idle, 0.95);
    console.log(
      `p95 beside it: ${more.toFixed(1)} ms more than alone (at most 20); p99 of the event loop ${delay.p99.toFixed(1)} ms (under 20): ${more <= 20 && delay.p99 < 20 ? 'ok' : 'NOT MET'}`,
    );
  });
} finally {
  rmSync(directory, { recursive: true, force: true });
}
console.log(machine());
