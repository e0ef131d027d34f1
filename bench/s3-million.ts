/**
 * One row, a prefix with a million objects below it, on our own server: `npm run bench:s3:million -- [objects]`. What is asked is
 * whether the daemon's memory stays flat. Its heap is limited to what could not hold the names of all objects: one that kept
 * something of each would end.
 */
import { judge } from './contestants/race.ts';
import { drain, end, rss, start } from './s3/drain.ts';
import { BUCKET, startBenchServer } from './s3/server.ts';
import { machine, median, onStage } from './stage.ts';

const OBJECTS = Number(process.argv[2] ?? 1_000_000);
const BYTES = 1;
/** What V8 may keep, in MB. */
const HEAP = 64;

const server = await startBenchServer();
try {
  await onStage(async stage => {
    const root = `s3://${BUCKET}/`;
    const run = async (prefix: string, objects: number) => {
      await server.tell({ do: 'fill', prefix, objects, bytes: BYTES });
      const samples = [rss(pid)];
      const timer = setInterval(() => samples.push(rss(pid)), 200);
      const drained = await drain(stage, `'${root}${prefix}'`, 1);
      clearInterval(timer);
      const { left } = await server.tell({ do: 'count' });
      if (left > 0 || drained.objects !== objects || drained.bytes !== BYTES * objects) {
        throw new Error(`${left} objects left, ${drained.objects} and ${drained.bytes} bytes counted`);
      }
      const most = Math.max(...samples);
      console.log(
        `${objects} objects: ${Math.round(objects / drained.seconds)} a second; RSS ${samples[0]?.toFixed(0)} MB before, ${median(samples).toFixed(0)} MB in the middle, ${most.toFixed(0)} MB at most; a heap of ${HEAP} MB at most`,
      );
      // The heap of Node grows until it has found its size, and should stay there.
      const half = samples.length >> 1;
      return Math.max(...samples.slice(half)) / Math.max(...samples.slice(0, half));
    };
    const daemon = await start(stage, {
      ...server.env,
      AFTERDELETE_ROOTS: root,
      NODE_OPTIONS: `--max-old-space-size=${HEAP}`,
    });
    const pid = daemon.pid as number;
    await run('few/', OBJECTS / 10);
    const grown = await run('many/', OBJECTS);
    await end(daemon);
    judge('most memory in the second half ÷ in the first', grown, 1.05, 'at most');
  });
} finally {
  server.close();
}
console.log(machine());
