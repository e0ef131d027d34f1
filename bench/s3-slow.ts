/**
 * A server that asks for less: `npm run bench:s3:slow -- [rows]`. First it answers SlowDown to 30% of keys, whatever the rate; then
 * to all that goes beyond a capacity. Nothing may be lost, no attempt counted, and the rate must come near the capacity.
 */
import { judge } from './contestants/race.ts';
import { drain, end, start } from './s3/drain.ts';
import { BUCKET, startBenchServer } from './s3/server.ts';
import { machine, onStage } from './stage.ts';

const ROWS = Number(process.argv[2] ?? 50_000);
const SHARE = 0.3;
const CAPACITY = 2_000;

const server = await startBenchServer();
try {
  await onStage(async stage => {
    const root = `s3://${BUCKET}/`;
    const daemon = await start(stage, {
      ...server.env,
      AFTERDELETE_ROOTS: root,
    });
    const run = async (rows: number) => {
      await server.tell({ do: 'fill', prefix: 'r/', objects: rows, bytes: 0 });
      const { seconds, odd } = await drain(stage, `'${root}r/' || i`, rows);
      const { left, slow, asked } = await server.tell({ do: 'count' });
      console.log(
        `${rows} rows: ${Math.round(rows / seconds)} a second; ${left} objects left, ${odd} rows with an attempt that failed; ${asked} keys asked, ${slow} of them answered SlowDown (${((100 * slow) / asked).toFixed(1)}%)`,
      );
      judge('  objects left, and rows with a failed attempt', left + odd, 0, 'at most');
      return rows / seconds;
    };
    await server.tell({ do: 'latency', ms: 5 });
    await server.tell({ do: 'slow', share: SHARE });
    console.log(`SlowDown for ${100 * SHARE}% of keys, whatever the rate`);
    await run(ROWS / 2);
    await server.tell({ do: 'capacity', perSecond: CAPACITY });
    console.log(`SlowDown for what goes beyond ${CAPACITY} keys a second`);
    judge('  the rate ÷ the capacity', (await run(ROWS)) / CAPACITY, 0.7, 'at least');
    await end(daemon);
  });
} finally {
  server.close();
}
console.log(machine());
