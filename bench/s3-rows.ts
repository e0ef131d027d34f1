/**
 * Single objects, a row each, on our own server with 5 ms a request: `npm run bench:s3:rows -- [rows] [rounds] [naive|single]`. Many rows in
 * one request, beside two that send a DeleteObject a row, with as many in flight: a worker of a dozen lines that takes them from a
 * table one by one, and the same daemon with `deleteMode: single`, which claims and settles them by the thousand.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { judge } from './contestants/race.ts';
import { drain, end, start } from './s3/drain.ts';
import { drainNaively } from './s3/naive.ts';
import { BUCKET, startBenchServer } from './s3/server.ts';
import { machine, median, onStage, type Stage } from './stage.ts';

const ROWS = Number(process.argv[2] ?? 50_000);
const ROUNDS = Number(process.argv[3] ?? 5);
/** Only beside this one; default: beside both. */
const BESIDE = process.argv[4];
const LATENCY = 5;
/** Requests in flight, of each. */
const CONCURRENCY = 16;
const ROOT = `s3://${BUCKET}/`;

const server = await startBenchServer();

const daemonInMode = (deleteMode: 'auto' | 'single') => async (stage: Stage) => {
  const config = join(stage.directory, `${deleteMode}.yaml`);
  writeFileSync(config, `roots:\n  - uri: ${ROOT}\n    deleteMode: ${deleteMode}\n`);
  const daemon = await start(stage, {
    ...server.env,
    AFTERDELETE_CONFIG: config,
    AFTERDELETE_ROOTS: undefined,
    AFTERDELETE_CONCURRENCY: String(CONCURRENCY),
  });
  const { seconds, odd } = await drain(stage, `'${ROOT}r/' || i`, ROWS);
  await end(daemon);
  if (odd > 0) throw new Error(`${odd} rows ended oddly`);
  return seconds;
};

/** How long each takes for all rows, in seconds. */
const CONTESTANTS = {
  naive: (stage: Stage) =>
    drainNaively(stage, server.env, { key: `'r/' || i`, rows: ROWS, concurrency: CONCURRENCY }),
  single: daemonInMode('single'),
  ours: daemonInMode('auto'),
} as const;

try {
  await onStage(async stage => {
    const rates = { naive: [] as number[], single: [] as number[], ours: [] as number[] };
    await server.tell({ do: 'latency', ms: LATENCY });
    for (let round = 1; round <= ROUNDS; round++) {
      for (const who of ['naive', 'single', 'ours'] as const) {
        if (BESIDE !== undefined && who !== 'ours' && who !== BESIDE) continue;
        await server.tell({ do: 'fill', prefix: 'r/', objects: ROWS, bytes: 0 });
        const rate = ROWS / (await CONTESTANTS[who](stage));
        const { left, requests } = await server.tell({ do: 'count' });
        if (left > 0) throw new Error(`${who}: ${left} objects left`);
        rates[who].push(rate);
        console.log(`${who}: ${Math.round(rate)} rows/s, ${requests} requests`);
      }
    }
    const ours = median(rates.ours);
    console.log(
      `${ROWS} rows, ${LATENCY} ms a request, ${CONCURRENCY} in flight: ${Math.round(ours)} rows a second`,
    );
    for (const [who, name] of [
      ['naive', 'a worker that sends a DeleteObject a row'],
      ['single', 'the same daemon with `deleteMode: single`'],
    ] as const) {
      if (rates[who].length === 0) continue;
      const theirs = median(rates[who]);
      judge(`ours ÷ ${name} (${Math.round(theirs)} rows a second)`, ours / theirs, 20, 'at least');
    }
  });
} finally {
  server.close();
}
console.log(`medians of ${ROUNDS} rounds; ${machine()}`);
