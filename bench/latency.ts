/**
 * From COMMIT to file gone, on an idle machine by the NOTIFY path: `npm run bench:latency`.
 * The daemon is a process of its own; the end is when the kernel tells (inotify) that the file is unlinked.
 */
import { watch, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { machine, onStage, percentile } from './stage.ts';

const SAMPLES = Number(process.argv[2] ?? 500);
const WARM_UP = 20;

await onStage(async ({ db, directory, root, startDaemon }) => {
  await startDaemon();
  await db.sql('CREATE TABLE record (id int PRIMARY KEY)');
  await db.sql('INSERT INTO record SELECT * FROM generate_series(1, $1)', [SAMPLES + WARM_UP]);
  const client = await db.connect();
  const gone = new Map<string, (at: number) => void>();
  const watcher = watch(directory, (_, name) => gone.get(String(name))?.(performance.now()));

  for (const every of [1_000, 20]) {
    const count = every === 1_000 ? Math.ceil(SAMPLES / 10) : SAMPLES;
    const samples: number[] = [];
    for (let i = 1; i <= count + WARM_UP; i++) {
      const name = `${every}-${i}`;
      writeFileSync(join(directory, name), 'x');
      // The events of the creation come first, on the same watch.
      await new Promise(resolve => setTimeout(resolve, i <= WARM_UP ? 20 : every));
      const end = new Promise<number>(resolve => gone.set(name, resolve));
      await client.query('BEGIN');
      await client.query('DELETE FROM record WHERE id = $1', [i]);
      await client.query('INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ($1)', [
        `${root}${name}`,
      ]);
      await client.query('COMMIT');
      const committed = performance.now();
      const ms = (await end) - committed;
      gone.delete(name);
      if (i > WARM_UP) samples.push(ms);
    }
    const [p50, p95, p99] = [0.5, 0.95, 0.99].map(share => percentile(samples, share).toFixed(2));
    console.log(
      `a row every ${every} ms: COMMIT to file gone, ms: p50 ${p50}, p95 ${p95}, p99 ${p99} (${samples.length} samples)`,
    );
  }
  watcher.close();
});
console.log(machine());
