import { execFileSync } from 'node:child_process';
import { onStage } from './stage.ts';
const rows = Number(process.argv[2] ?? 200000);
const watched = process.argv[3] === 'watch';
await onStage(async ({ db, url }) => {
  if (watched) await db.sql("CREATE TABLE live (id bigint PRIMARY KEY); INSERT INTO live SELECT 10000000 + i FROM generate_series(1, 100000) i; SELECT afterdelete.watch('live', 'noop://store/{id}'); ANALYZE live");
  for (let k = 0; k < 3; k++) {
    await db.sql(`INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'noop://store/' || i FROM generate_series(1, ${rows}) i`);
    await db.sql('VACUUM ANALYZE afterdelete.pending_file_cleanup');
    console.log(execFileSync('node_modules/.bin/node', ['bench/noop.ts', url, String(rows)], { stdio: ['ignore', 'pipe', 'inherit'] }).toString().trim());
    await db.sql('VACUUM afterdelete.running_file_cleanup');
    await db.sql('TRUNCATE afterdelete.done_file_cleanup');
  }
});
