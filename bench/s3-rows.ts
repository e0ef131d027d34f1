/**
 * Single objects, a row each, on our own server with 5 ms a request: `npm run bench:s3:rows -- [rows] [rounds]`. Many rows in
 * one request, beside the same daemon with `deleteMode: single`: a worker that sends a DeleteObject a row.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { judge } from './contestants/race.ts';
import { drain, end, start } from './s3/drain.ts';
import { BUCKET, startBenchServer } from './s3/server.ts';
import { machine, median, onStage } from './stage.ts';

const ROWS = Number(process.argv[2] ?? 50_000);
const ROUNDS = Number(process.argv[3] ?? 5);
const LATENCY = 5;

const server = await startBenchServer();
try {
  await onStage(async stage => {
    const root = `s3://${BUCKET}/`;
    const rates = { batch: [] as number[], single: [] as number[] };
    await server.tell({ do: 'latency', ms: LATENCY });
    for (let round = 1; round <= ROUNDS; round++) {
      for (const mode of ['single', 'batch'] as const) {
        await server.tell({ do: 'fill', prefix: 'r/', objects: ROWS, bytes: 0 });
        const config = join(stage.directory, `${mode}.yaml`);
        writeFileSync(
          config,
          `roots:\n  - uri: ${root}\n    deleteMode: ${mode === 'batch' ? 'auto' : 'single'}\n`,
        );
        const daemon = await start(stage, {
          ...server.env,
          AFTERDELETE_CONFIG: config,
          AFTERDELETE_ROOTS: undefined,
        });
        const { seconds, odd } = await drain(stage, `'${root}r/' || i`, ROWS);
        await end(daemon);
        const { left, requests } = await server.tell({ do: 'count' });
        if (left > 0 || odd > 0) throw new Error(`${left} objects left, ${odd} rows ended oddly`);
        rates[mode].push(ROWS / seconds);
        console.log(`${mode}: ${Math.round(ROWS / seconds)} rows/s, ${requests} requests`);
      }
    }
    judge(
      `${ROWS} rows, ${LATENCY} ms a request: many rows a request ÷ a request a row (medians: ${Math.round(median(rates.batch))} and ${Math.round(median(rates.single))} rows/s)`,
      median(rates.batch) / median(rates.single),
      20,
      'at least',
    );
  });
} finally {
  server.close();
}
console.log(machine());
