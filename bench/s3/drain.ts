/** How long a daemon takes for rows that are written while it sleeps. */
import type { ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Env, spawnCommand } from '../../tests/support/command.ts';
import type { Stage } from '../stage.ts';

export interface Drained {
  readonly seconds: number;
  readonly objects: number;
  readonly bytes: number;
  /** Rows that ended otherwise than deleted, at the first attempt. */
  readonly odd: number;
}

const CHECK = 20;

/** Writes rows, waits until all have ended, and empties the audit trail. */
export async function drain(stage: Stage, target: string, rows: number): Promise<Drained> {
  const { db } = stage;
  await db.sql(
    `INSERT INTO afterdelete.pending_file_cleanup (target) SELECT ${target} FROM generate_series(1, ${rows}) i`,
  );
  const begun = performance.now();
  for (;;) {
    // By the index: a look at the table would pass all that are gone already, and be measured with the rest.
    const [left] = await db.sql(
      `SELECT (SELECT max(id) FROM afterdelete.running_file_cleanup) IS NOT NULL
           OR (SELECT max(id) FROM afterdelete.pending_file_cleanup) IS NOT NULL AS some`,
    );
    if (left?.some === false) break;
    await sleep(CHECK);
  }
  const seconds = (performance.now() - begun) / 1000;
  const [done] = await db.sql(`
    SELECT coalesce(sum(objects_deleted), 0) AS objects, coalesce(sum(bytes_freed), 0) AS bytes,
           ${rows} - count(*) FILTER (WHERE outcome = 'deleted' AND attempt = 1) AS odd
      FROM afterdelete.done_file_cleanup`);
  await db.sql('TRUNCATE afterdelete.done_file_cleanup');
  return { seconds, objects: Number(done?.objects), bytes: Number(done?.bytes), odd: Number(done?.odd) };
}

/** Starts the built daemon, which logs nothing but trouble, and resolves when it serves the stage's database. */
export async function start({ db, url }: Stage, env: Env): Promise<ChildProcess> {
  const daemon = spawnCommand(['run'], {
    env: {
      DATABASE_URL: url,
      AFTERDELETE_HTTP: '127.0.0.1:0',
      AFTERDELETE_LOG_LEVEL: 'warn',
      NODE_OPTIONS: process.env.BENCH_NODE_FLAGS,
      ...env,
    },
  });
  process.once('exit', () => daemon.kill('SIGKILL'));
  daemon.stdout.pipe(process.stderr);
  daemon.stderr.pipe(process.stderr);
  for (;;) {
    if (daemon.exitCode !== null) throw new Error(`the daemon ended with ${daemon.exitCode}`);
    const [live] = await db.sql('SELECT count(*) AS workers FROM afterdelete.worker');
    if (Number(live?.workers) === 1) return daemon;
    await sleep(CHECK);
  }
}

/** Ends a daemon, and waits for it. */
export async function end(daemon: ChildProcess): Promise<void> {
  const closed = new Promise(resolve => daemon.once('close', resolve));
  daemon.kill('SIGTERM');
  await closed;
}

/** Resident memory of a process now, in MB. Linux only. */
export function rss(pid: number): number {
  const [, pages = '0'] = readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ');
  return (Number(pages) * 4096) / 1e6;
}
