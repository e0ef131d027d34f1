/**
 * From COMMIT until the handler begins, beside other queues: `npm run bench:wake -- [samples] [rounds] [sparse]`.
 *
 * Arrivals every 20 ms: one contestant at a time, `samples` in each round. Arrivals every second: all at a time, a third of a
 * second apart, `sparse` each. The time begins when COMMIT has answered and ends in the contestant's process, when its
 * handler is called. All write in a transaction, over the same connection; pg-boss with its notifications switched on.
 */
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Told } from './contestants/child.ts';
import { CONTESTANTS, type Name } from './contestants/index.ts';
import { installPeers, peerVersions } from './contestants/peers.ts';
import { install, settleDown, watchLive } from './contestants/prepare.ts';
import { type Entry, endChild, judge, startChild } from './contestants/race.ts';
import { machine, onStage, percentile } from './stage.ts';

const SAMPLES = Number(process.argv[2] ?? 1_000);
const ROUNDS = Number(process.argv[3] ?? 5);
const SPARSE = Number(process.argv[4] ?? 300);
const WARM_UP = 20;
const ROOT = 'noop://store/';
/** How long an arrival may take before it counts as lost, in ms. */
const PATIENCE = 60_000;

const OURS: Entry = { label: 'afterdelete', contestant: 'afterdelete' };
const PEERS: readonly Entry[] = [
  { label: 'graphile-worker', contestant: 'graphile' },
  { label: 'pg-boss, notify', contestant: 'boss', settings: { useListenNotify: true } },
];
const ALL = [OURS, ...PEERS];

const now = () => performance.timeOrigin + performance.now();

installPeers();
await onStage(async ({ db, url }) => {
  const names = ALL.map(entry => entry.contestant);
  await install(db, names);
  await watchLive(db, `${ROOT}{id}`);
  const client = await db.connect();
  const writers = new Map<Name, Awaited<ReturnType<(typeof CONTESTANTS)[Name]['openWriter']>>>();
  for (const name of names) writers.set(name, await CONTESTANTS[name].openWriter(db));
  const begun = new Map<string, (at: number) => void>();
  const onTold = (told: Told) => {
    if (told.kind === 'begun') for (const target of told.targets) begun.get(target)?.(told.at);
  };
  let number = 0;

  /** Commits one job, and returns how long its handler took to begin. */
  async function arrive({ contestant }: Entry): Promise<number> {
    const target = `${ROOT}${++number}`;
    const start = Promise.withResolvers<number>();
    begun.set(target, start.resolve);
    const timer = setTimeout(() => start.reject(new Error(`${contestant} never began ${target}`)), PATIENCE);
    try {
      await client.query('BEGIN');
      await writers.get(contestant)?.write((text, values) => client.query(text, values), target);
      await client.query('COMMIT');
      const committed = now();
      return (await start.promise) - committed;
    } finally {
      clearTimeout(timer);
      begun.delete(target);
    }
  }

  async function begin({ contestant, settings = {} }: Entry) {
    await CONTESTANTS[contestant].clear(db);
    await settleDown(db, contestant);
    const child = startChild({ contestant, settings, url, work: 'noop', root: ROOT, each: true }, onTold);
    await once(child, 'message');
    return child;
  }

  /** Lets jobs arrive in turn, one each `every` ms for each entry, and adds what they took. */
  async function sample(
    entries: readonly Entry[],
    every: number,
    count: number,
    into: Map<string, number[]>,
  ) {
    const children = [];
    for (const entry of entries) children.push(await begin(entry));
    // Until what they do at their start is done.
    await sleep(2_000);
    let next = performance.now();
    for (let i = -WARM_UP; i < count; i++) {
      for (const entry of entries) {
        next += (i < 0 ? 20 : every) / entries.length;
        await sleep(Math.max(0, next - performance.now()));
        const ms = await arrive(entry);
        if (i >= 0) into.get(entry.label)?.push(ms);
        if (performance.now() > next) next = performance.now();
      }
    }
    for (const child of children) await endChild(child);
  }

  function print(every: number, samples: ReadonlyMap<string, readonly number[]>) {
    const at = (label: string, share: number) => percentile(samples.get(label) ?? [], share);
    const rows = [...samples].map(([label, all]) => [
      label,
      {
        ...Object.fromEntries(
          [0.5, 0.95, 0.99].map(share => [`p${100 * share}`, at(label, share).toFixed(2)]),
        ),
        samples: all.length,
      },
    ]);
    console.log(`a row every ${every} ms: COMMIT until the handler begins, ms`);
    console.table(Object.fromEntries(rows));
    for (const [share, goal] of [
      [0.5, 1.1],
      [0.99, 1.25],
    ] as const) {
      const best = Math.min(...PEERS.map(({ label }) => at(label, share)));
      judge(`p${100 * share}: ours ÷ the better peer’s`, at(OURS.label, share) / best, goal, 'at most');
    }
  }

  const dense = new Map<string, number[]>(ALL.map(({ label }) => [label, []]));
  for (let round = 1; round <= ROUNDS; round++) {
    for (const entry of ALL) await sample([entry], 20, SAMPLES, dense);
    console.log(`round ${round} of ${ROUNDS}`);
  }
  print(20, dense);
  const sparse = new Map<string, number[]>(ALL.map(({ label }) => [label, []]));
  await sample(ALL, 1_000, SPARSE, sparse);
  print(1_000, sparse);
  for (const writer of writers.values()) await writer.end();
});
console.log(`${JSON.stringify(peerVersions())}; ${machine()}`);
