/** What benchmarks run on: a PostgreSQL of their own with fsync on, the built daemon as a process of its own, a directory. */
import type { ChildProcess } from 'node:child_process';
import { mkdtempSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { availableParallelism, cpus, release, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { migrate } from '../src/outbox/migrate.ts';
import { type Env, spawnCommand } from '../tests/support/command.ts';
import { openTestDatabase, type TestDatabase } from '../tests/support/database.ts';
import { startPostgres } from '../tests/support/postgres.ts';

export interface Stage {
  readonly db: TestDatabase;
  readonly url: string;
  /** A directory on the disk of the system's temporary directory. */
  readonly directory: string;
  readonly root: string;
  /** Starts the built daemon on that root, and resolves when it listens. */
  startDaemon(env?: Env): Promise<ChildProcess>;
}

/** Runs a benchmark on a stage, and takes the stage down whatever happens. */
export async function onStage(play: (stage: Stage) => Promise<void>): Promise<void> {
  const directory = realpathSync(mkdtempSync(join(tmpdir(), 'afterdelete-bench-')));
  const server = await startPostgres({ fsync: 'on' });
  const db = openTestDatabase(server.url(), 'postgres');
  const daemons: ChildProcess[] = [];
  const root = `file://${directory}/`;
  try {
    await migrate(server.url());
    const startDaemon = async (env: Env = {}) => {
      const daemon = spawnCommand(['run'], {
        env: { DATABASE_URL: server.url(), AFTERDELETE_ROOTS: root, AFTERDELETE_HTTP: '127.0.0.1:0', ...env },
      });
      daemons.push(daemon);
      daemon.stderr.pipe(process.stderr);
      await new Promise<void>((resolve, reject) => {
        createInterface({ input: daemon.stdout }).on('line', line => {
          if (JSON.parse(line).event === 'listen_restored') resolve();
        });
        daemon.once('close', code => reject(new Error(`the daemon ended with ${code}`)));
      });
      return daemon;
    };
    await play({ db, url: server.url(), directory, root, startDaemon });
  } finally {
    for (const daemon of daemons) {
      daemon.removeAllListeners('close');
      daemon.kill('SIGKILL');
    }
    await db.close();
    await server.destroy();
    rmSync(directory, { recursive: true, force: true });
  }
}

/** One line that says on what a table was measured. */
export function machine(): string {
  const [cpu] = cpus();
  const date = new Date().toISOString().slice(0, 10);
  return `${date}; Node ${process.version}; ${availableParallelism()} × ${cpu?.model.trim() ?? 'unknown CPU'}; ${Math.round(totalmem() / 2 ** 30)} GB; Linux ${release()}`;
}

/** The value below which a share of the samples lies. */
export function percentile(samples: readonly number[], share: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}

/** CPU time that a process has used, in seconds. Linux only: fields 14 and 15 of /proc/PID/stat, in ticks of 10 ms. */
export function cpuSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // The second field is the name in parentheses, which may contain anything.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}
