/** What benchmarks run on: a PostgreSQL of their own with fsync on, the built daemon as a process of its own, a directory. */
import type { ChildProcess } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { availableParallelism, cpus, release, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { migrate } from '../src/outbox/migrate.ts';
import { type Env, spawnCommand } from '../tests/support/command.ts';
import { openTestDatabase, type TestDatabase } from '../tests/support/database.ts';
import { type PostgresServer, startPostgres } from '../tests/support/postgres.ts';

export interface Stage {
  readonly db: TestDatabase;
  readonly url: string;
  /** To stop and to start. */
  readonly server: PostgresServer;
  /** A directory on the disk of the system's temporary directory. */
  readonly directory: string;
  readonly root: string;
  /** Makes a further database with the schema in it. */
  openDatabase(name: string): Promise<TestDatabase>;
  /** CPU time that PostgreSQL has used so far, all its processes, in seconds. Linux only. */
  serverCpu(): number;
  /** Starts the built daemon on that root, and resolves when it listens. */
  startDaemon(env?: Env): Promise<ChildProcess>;
}

/** Runs a benchmark on a stage, and takes the stage down whatever happens. */
export async function onStage(
  play: (stage: Stage) => Promise<void>,
  { flags = [] }: { flags?: readonly string[] } = {},
): Promise<void> {
  const directory = realpathSync(mkdtempSync(join(tmpdir(), 'afterdelete-bench-')));
  const server = await startPostgres({ fsync: 'on', flags });
  const db = openTestDatabase(server.url(), 'postgres');
  const databases = [db];
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
    const openDatabase = async (name: string) => {
      await db.sql(`CREATE DATABASE ${name}`);
      const database = openTestDatabase(server.url(name), name);
      databases.push(database);
      await migrate(database.url);
      return database;
    };
    const serverCpu = () => cpuOfServer(join(server.directory, 'data'));
    await play({ db, url: server.url(), server, directory, root, openDatabase, serverCpu, startDaemon });
  } finally {
    for (const daemon of daemons) {
      daemon.removeAllListeners('close');
      daemon.kill('SIGKILL');
    }
    for (const database of databases) await database.close();
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

/** The value in the middle. */
export function median(samples: readonly number[]): number {
  return percentile(samples, 0.5);
}

/** CPU time that a process has used, in seconds. Linux only: fields 14 and 15 of /proc/PID/stat, in ticks of 10 ms. */
export function cpuSeconds(pid: number): number {
  const { own } = statOf(pid);
  return own;
}

interface Stat {
  readonly parent: number;
  readonly own: number;
  /** Of its children that have ended. */
  readonly ended: number;
}

function statOf(pid: number): Stat {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  // The second field is the name in parentheses, which may contain anything.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const seconds = (n: number) => (Number(fields[n]) + Number(fields[n + 1])) / 100;
  return { parent: Number(fields[1]), own: seconds(11), ended: seconds(13) };
}

function cpuOfServer(data: string): number {
  const postmaster = Number(readFileSync(join(data, 'postmaster.pid'), 'utf8').split('\n')[0]);
  const { own, ended } = statOf(postmaster);
  let seconds = own + ended;
  for (const name of readdirSync('/proc').filter(entry => /^[0-9]+$/.test(entry))) {
    try {
      const stat = statOf(Number(name));
      if (stat.parent === postmaster) seconds += stat.own;
    } catch {
      // It has ended meanwhile.
    }
  }
  return seconds;
}
