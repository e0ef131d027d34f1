import { execFileSync } from 'node:child_process';
import { onStage } from './stage.ts';
const rows = 200000;
await onStage(async ({ db, url }) => {
    await db.sql(`INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'noop://store/' || i FROM generate_series(1, ${rows}) i`);
    await db.sql('VACUUM ANALYZE afterdelete.pending_file_cleanup');
    console.log(execFileSync('node_modules/.bin/node', ['--cpu-prof', '--cpu-prof-dir=/tmp/prof', 'bench/noop.ts', url, String(rows)], { stdio: ['ignore', 'pipe', 'inherit'] }).toString().trim());
});
