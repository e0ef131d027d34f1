/**
 * What a store's backlog costs another store's rows: `npm run bench:fairness -- [rows] [samples] [rounds]`.
 *
 * One daemon serves two stores. In the one a million rows wait; in the other, files arrive every 20 ms, and the time from COMMIT
 * until each is gone is measured: with nothing else there, with the million waiting (its store is paused), and with the million
 * being worked on. The last two take turns.
 */
import { mkdirSync, watch, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { machine, median, onStage, percentile } from './stage.ts';

const ROWS = Number(process.argv[2] ?? 1_000_000);
const SAMPLES = Number(process.argv[3] ?? 300);
const ROUNDS = Number(process.argv[4] ?? 5);
const EVERY = 20;
const WARM_UP = 20;
/** The name of this machine, for a second store of files. */
const HOST = 'bench';

await onStage(async ({ db, directory, startDaemon }) => {
  const [many, few] = [join(directory, 'many'), join(directory, 'few')];
  for (const path of [many, few]) mkdirSync(path);
  await startDaemon({ AFTERDELETE_ROOTS: `file://${many}/ file://${HOST}${few}/`, AFTERDELETE_HOST: HOST });
  const client = await db.connect();
  const gone = new Map<string, (at: number) => void>();
  const watcher = watch(few, (_, name) => gone.get(String(name))?.(performance.now()));
  let number = 0;

  async function sample(): Promise<number[]> {
    const samples: number[] = [];
    for (let i = -WARM_UP; i < SAMPLES; i++) {
      const name = `${++number}`;
      writeFileSync(join(few, name), 'x');
      // The events of the creation come first, on the same watch.
      await sleep(EVERY);
      const end = new Promise<number>(resolve => gone.set(name, resolve));
      await client.query('INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ($1)', [
        `file://${HOST}${few}/${name}`,
      ]);
      const committed = performance.now();
      const ms = (await end) - committed;
      gone.delete(name);
      if (i >= 0) samples.push(ms);
    }
    return samples;
  }
  const left = async () =>
    (
      await db.sql<{ n: number }>(
        "SELECT count(*)::int AS n FROM afterdelete.pending_file_cleanup WHERE store = 'file://'",
      )
    )[0]?.n ?? 0;

  const results = new Map<string, number[][]>();
  const measure = async (label: string) => {
    const samples = await sample();
    results.set(label, [...(results.get(label) ?? []), samples]);
    console.log(`${label}: p50 ${median(samples).toFixed(2)} ms`);
  };
  for (let round = 1; round <= ROUNDS; round++) await measure('nothing else');
  await db.sql("SELECT afterdelete.pause('file://')");
  await db.sql(
    'INSERT INTO afterdelete.pending_file_cleanup (target) SELECT $1::text || i FROM generate_series(1, $2::int) i',
    [`file://${many}/`, ROWS],
  );
  await db.sql('VACUUM ANALYZE afterdelete.pending_file_cleanup');
  for (let round = 1; round <= ROUNDS; round++) {
    await measure('rows of another store wait');
    await db.sql("SELECT afterdelete.resume('file://')");
    await measure('rows of another store are worked on');
    await db.sql("SELECT afterdelete.pause('file://')");
  }
  watcher.close();
  console.log(`COMMIT until the file is gone, ms; medians of ${ROUNDS} rounds of ${SAMPLES} files`);
  const of = (label: string, share: number) =>
    median((results.get(label) ?? []).map(samples => percentile(samples, share)));
  console.table(
    Object.fromEntries(
      [...results.keys()].map(label => [
        label,
        Object.fromEntries(
          [0.5, 0.95, 0.99].flatMap(share => [
            [`p${100 * share}`, of(label, share).toFixed(2)],
            [`p${100 * share} ÷ alone`, (of(label, share) / of('nothing else', share)).toFixed(2)],
          ]),
        ),
      ]),
    ),
  );
  const rest = await left();
  console.log(
    rest > 0
      ? `${ROWS - rest} of ${ROWS} rows of the other store were worked on meanwhile`
      : 'the other store had no rows left in the end: give it more',
  );
});
console.log(machine());
