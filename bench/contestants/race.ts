/** Lets contestants run in turn, each in a process of its own, and measures until the last job is settled in the database. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { median, type Stage } from '../stage.ts';
import type { ChildOrder, Told } from './child.ts';
import type { Db, Order } from './contestant.ts';
import { CONTESTANTS, type Name } from './index.ts';

const CHILD = fileURLToPath(new URL('./child.ts', import.meta.url));
/** How long an end in good order may take, in ms. */
const GRACE = 15_000;

/** A contestant and how it is set up. */
export interface Entry {
  readonly label: string;
  readonly contestant: Name;
  readonly settings?: Order['settings'];
  /** End after so many seconds, and count what was handled by then. */
  readonly limit?: number;
}

export interface Drained {
  /** Jobs a second. */
  readonly rate: number;
  readonly seconds: number;
  /** Of its process at its peak, in MB. */
  readonly rss: number;
  /** CPU of its process, and of PostgreSQL beside it, in µs a job. */
  readonly cpu: number;
  readonly serverCpu: number;
}

/** Starts a contestant. BENCH_NODE_FLAGS, e.g. `--cpu-prof`, go to its Node. */
export function startChild(order: ChildOrder, onTold: (told: Told) => void = () => {}): ChildProcess {
  const child = fork(CHILD, [JSON.stringify(order)], {
    execArgv: process.env.BENCH_NODE_FLAGS?.split(' ') ?? [],
  });
  child.on('message', told => onTold(told as Told));
  return child;
}

export async function endChild(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const closed = once(child, 'close');
  child.send('end');
  const timer = setTimeout(() => child.kill('SIGKILL'), GRACE);
  await closed;
  clearTimeout(timer);
}

/** Has a contestant settle `count` jobs of those that wait. */
export async function drain(
  stage: Pick<Stage, 'serverCpu'>,
  db: Db,
  { label, contestant, settings = {}, limit }: Entry,
  job: Pick<Order, 'work' | 'root'> & { readonly count: number },
): Promise<Drained> {
  const { left, unsettled } = CONTESTANTS[contestant];
  const waiting = await left(db);
  const serverBefore = stage.serverCpu();
  let startedAt = 0;
  let child: ChildProcess | undefined;
  let timer: NodeJS.Timeout | undefined;
  try {
    const handled = await new Promise<Told & { kind: 'handled' }>((resolve, reject) => {
      child = startChild({ contestant, settings, url: db.url, ...job }, told => {
        if (told.kind === 'handled') resolve(told);
        if (told.kind !== 'started') return;
        startedAt = told.at;
        if (limit !== undefined) timer = setTimeout(() => child?.send('report'), limit * 1_000);
      });
      child.once('close', code => reject(new Error(`${label} ended with ${code}`)));
    });
    let ids = [...handled.last];
    while (ids.length > 0) {
      ids = await unsettled(db, ids);
      if (ids.length > 0) await sleep(2);
    }
    const seconds = (performance.timeOrigin + performance.now() - startedAt) / 1_000;
    const serverCpu = stage.serverCpu() - serverBefore;
    if (child !== undefined) await endChild(child);
    const still = await left(db);
    if (still > waiting - handled.jobs && limit === undefined && waiting === job.count)
      throw new Error(`${label} left ${still} of ${waiting} jobs`);
    const each = (cpu: number) => (1e6 * cpu) / handled.jobs;
    return {
      rate: handled.jobs / seconds,
      seconds,
      rss: handled.rss,
      cpu: each(handled.cpu),
      serverCpu: each(serverCpu),
    };
  } finally {
    clearTimeout(timer);
    child?.removeAllListeners('close');
    child?.kill('SIGKILL');
  }
}

/** Lets all have their turn, so many times, and prints each run. */
export async function inTurn<T>(
  rounds: number,
  entries: readonly Entry[],
  run: (entry: Entry) => Promise<T>,
  tell: (result: T) => string,
): Promise<Map<string, T[]>> {
  const results = new Map<string, T[]>(entries.map(({ label }) => [label, []]));
  for (let round = 1; round <= rounds; round++) {
    for (const entry of entries) {
      const result = await run(entry);
      results.get(entry.label)?.push(result);
      console.log(`round ${round} of ${rounds}: ${entry.label}: ${tell(result)}`);
    }
  }
  return results;
}

export const tellDrained = ({ rate, seconds, rss }: Drained) =>
  `${Math.round(rate)} a second (${seconds.toFixed(2)} s, ${rss} MB)`;

/** The medians as a table, with all rates. */
export function printDrained(results: ReadonlyMap<string, readonly Drained[]>): void {
  const of = (runs: readonly Drained[], key: keyof Drained) => median(runs.map(run => run[key]));
  const rows = [...results].map(([label, runs]) => [
    label,
    {
      'jobs/s': Math.round(of(runs, 'rate')),
      'RSS, MB': of(runs, 'rss'),
      'CPU µs/job': Math.round(of(runs, 'cpu')),
      'PostgreSQL µs/job': Math.round(of(runs, 'serverCpu')),
      runs: runs.map(run => Math.round(run.rate)).join(' '),
    },
  ]);
  console.table(Object.fromEntries(rows));
}

export function rateOf(results: ReadonlyMap<string, readonly Drained[]>, { label }: Entry): number {
  return median((results.get(label) ?? []).map(run => run.rate));
}

/** Prints a ratio beside its goal. */
export function judge(what: string, ratio: number, goal: number, better: 'at least' | 'at most'): void {
  const met = better === 'at least' ? ratio >= goal : ratio <= goal;
  console.log(`${what}: ${ratio.toFixed(2)} (goal: ${better} ${goal}): ${met ? 'met' : 'MISSED'}`);
}
