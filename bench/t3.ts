import { execFileSync } from 'node:child_process';
import { onStage } from './stage.ts';
await onStage(async ({ db, url }) => {
  const run = (n: number) => console.log(execFileSync('node_modules/.bin/node', ['bench/noop.ts', url, String(n)], { stdio: ['ignore', 'pipe', 'inherit'] }).toString().trim());
  const fill = (n: number) => db.sql(`INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'noop://store/' || i FROM generate_series(1, ${n}) i`);
  await fill(100000); run(100000);
  const reader = await db.connect();
  await reader.query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
  await fill(500000);
  await db.sql('DELETE FROM afterdelete.pending_file_cleanup');
  await fill(100000); run(100000);
  await fill(100000); run(100000);
});
