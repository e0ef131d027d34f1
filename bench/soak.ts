/**
 * A long time under mixed load, with faults at random: `npm run bench:soak -- [minutes] [--seed N] [--quiet]`. An hour by default.
 *
 * Cleanups of every kind (single, bursts, trees, prefixes, pruned, delayed, reserved, cancelled, rolled back, captured by watches,
 * held, mistaken, wrong) are written while daemons are killed and stopped, PostgreSQL crashes, and storage goes and comes. Then
 * nothing more is written, all is drained, and the books are opened. Exits 1 when anything was lost, is left, or ended twice.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { startS3Server } from '../tests/s3-server/server.ts';
import { Fleet } from '../tests/support/fleet.ts';
import { random } from '../tests/support/random.ts';
import { Faults } from './soak/faults.ts';
import { balance, committedDeeds, createTables } from './soak/ledger.ts';
import { Load } from './soak/load.ts';
import { Samples, takeSample } from './soak/samples.ts';
import { BUCKET, World } from './soak/world.ts';
import { machine, onStage } from './stage.ts';

const DAEMONS = 3;
const WRITERS = 4;
const LEASE = 3_000;
/** Longest that the rows may take once nothing is written and nothing goes wrong any more, in ms. */
const PATIENCE = 180_000;
/** So much of a soak is warming up, before it is sampled. */
const WARM_UP = 0.1;
/** What a daemon needs in the end may be so much more than in the beginning, in a soak long enough to tell. */
const GROWTH = 2;
const LONG_ENOUGH = 20;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { seed: { type: 'string' }, quiet: { type: 'boolean' } },
});
const minutes = Number(positionals[0] ?? 60);
const seed = Number(values.seed ?? Date.now() % 2 ** 31);
if (!(minutes > 0) || !Number.isInteger(seed)) {
  console.error('expected: npm run bench:soak -- [minutes, more than 0] [--seed INTEGER] [--quiet]');
  process.exit(2);
}

await onStage(async ({ db, server, url, directory }) => {
  console.log(`${minutes} minutes of seed ${seed}; the same seed gives the same faults in the same order`);
  const began = performance.now();
  const seconds = () => Math.round((performance.now() - began) / 1_000);
  const log = (line: string) => {
    if (!values.quiet) console.log(`${String(seconds()).padStart(5)} s  ${line}`);
  };
  const disk = join(directory, 'disk');
  mkdirSync(disk);
  const s3 = await startS3Server({ buckets: [BUCKET] });
  s3.faults.latency(5);
  const world = new World(disk, s3);
  await createTables(db, disk);
  const told = new Map<string, number>();
  const fleet = new Fleet({
    databaseUrl: url,
    roots: [`file://${disk}/`, `s3://${BUCKET}/`],
    s3,
    env: {
      AFTERDELETE_LEASE: `${LEASE}ms`,
      AFTERDELETE_PREFETCH: '500',
      // Left to itself, V8 takes what the machine has before it tidies up; so a daemon that leaks ends, and is found.
      NODE_OPTIONS: '--max-old-space-size=64 --max-semi-space-size=2',
      AFTERDELETE_RETRY_BASE: '200ms',
      AFTERDELETE_RETRY_CAP: '5s',
    },
    onLine: ({ event = 'other' }) => told.set(event, (told.get(event) ?? 0) + 1),
  });
  // Not one generator for both: how fast the load goes must not change the order of the faults.
  const load = new Load({ url, world, random: random(seed), writers: WRITERS });
  const faults = new Faults({
    fleet,
    server,
    db,
    s3,
    world,
    random: random(seed + 1),
    daemons: DAEMONS,
    lease: LEASE,
    log,
  });
  const samples = new Samples();
  const wrong: string[] = [];
  const sampled = () => takeSample(db, fleet, faults.veteran?.pid);
  try {
    faults.startDaemons();
    load.start();
    faults.start();
    const length = minutes * 60_000;
    let forgetAt = 30;
    while (performance.now() - began < length) {
      await sleep(1_000);
      const sample = await sampled();
      if (sample !== undefined && performance.now() - began > WARM_UP * length) samples.add(sample);
      if (seconds() < forgetAt) continue;
      forgetAt = seconds() + 30;
      await world.forget(load.committed);
      log(`${load.committed.size} transactions; ${JSON.stringify(sample)}`);
    }
    await faults.stop();
    await load.stop();
    log('nothing is written any more, and nothing goes wrong');

    const waiting = async () => {
      // Nobody waits for a backoff, or for the next look at what was held.
      await db.sql(
        "SELECT afterdelete.retry(id) FROM afterdelete.pending_file_cleanup WHERE run_at > now() + interval '1 s'",
      );
      const [row] = await db.sql<{ n: number }>(
        'SELECT ((SELECT count(*) FROM afterdelete.pending_file_cleanup) + (SELECT count(*) FROM afterdelete.running_file_cleanup))::int AS n',
      );
      return row?.n ?? 0;
    };
    const stopped = performance.now();
    while ((await waiting()) > 0 && performance.now() - stopped < PATIENCE) await sleep(500);
    const drained = (performance.now() - stopped) / 1_000;
    // Statistics come a second late.
    await sleep(1_500);
    const after = (await sampled()) ?? {};
    await faults.endDaemons();

    const { intents, ends, wrong: unbalanced } = await balance(db);
    const { left, lost, strange } = world.look(await committedDeeds(db));
    wrong.push(
      ...unbalanced,
      ...left.map(name => `${name}: should be gone, and is there`),
      ...lost.map(name => `${name}: should be there, and is gone`),
      ...strange.map(name => `${name}: nobody has written it`),
      ...faults.wrong,
      ...load.wrong,
    );
    const table = samples.table(after);
    const { start = 0, drained: rss = 0 } = table['RSS of the daemon that lives through all, MB'] ?? {};
    if (minutes >= LONG_ENOUGH && rss > GROWTH * start)
      wrong.push(`the daemon that lives through all needs ${rss} MB, after ${start} MB at the start`);
    console.table(Object.fromEntries([...faults.counts].sort().map(([name, times]) => [name, { times }])));
    console.table(Object.fromEntries([...told].sort().map(([event, lines]) => [event, { lines }])));
    console.table(table);
    console.log(
      `${intents} cleanups in ${load.committed.size} transactions (${load.unknown} failed, committed or not): ${JSON.stringify(ends)}; drained in ${drained.toFixed(1)} s; ${world.size} files and objects looked at in the end`,
    );
  } finally {
    await fleet.end();
    await s3.stop().catch(() => {});
  }
  for (const line of wrong.slice(0, 50)) console.log(`WRONG: ${line}`);
  console.log(
    wrong.length === 0
      ? 'nothing was lost, nothing live is gone, nothing is left: each cleanup came to one end, the one that it should'
      : `NOT KEPT: ${wrong.length} wrong, with seed ${seed}`,
  );
  process.exitCode = wrong.length === 0 ? 0 : 1;
});
console.log(machine());
