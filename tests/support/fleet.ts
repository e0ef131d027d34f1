/** Several daemons as processes of their own, of which some are killed, and others started for them. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { S3Server } from '../s3-server/server.ts';
import { type Env, spawnCommand } from './command.ts';
import type { LogLine } from './daemon.ts';
import type { TestDatabase } from './database.ts';

export interface FleetOptions {
  readonly databaseUrl: string;
  readonly roots: readonly string[];
  readonly s3: S3Server;
  /** Further variables, over those that this sets. */
  readonly env?: Env;
  readonly onLine?: (line: LogLine, daemon: ChildProcess) => void;
}

export class Fleet {
  readonly daemons = new Set<ChildProcess>();
  readonly #options: FleetOptions;

  constructor(options: FleetOptions) {
    this.#options = options;
  }

  start(): ChildProcess {
    const { databaseUrl, roots, s3, env, onLine } = this.#options;
    const daemon = spawnCommand(['run'], {
      env: {
        DATABASE_URL: databaseUrl,
        AFTERDELETE_ROOTS: roots.join(' '),
        AFTERDELETE_HTTP: 'off',
        AFTERDELETE_LOG_LEVEL: 'warn',
        AWS_ENDPOINT_URL_S3: s3.endpoint,
        AWS_ACCESS_KEY_ID: s3.accessKeyId,
        AWS_SECRET_ACCESS_KEY: s3.secretAccessKey,
        ...env,
      },
    });
    this.daemons.add(daemon);
    createInterface({ input: daemon.stdout }).on('line', line => onLine?.(JSON.parse(line), daemon));
    daemon.stderr.resume();
    daemon.once('close', () => this.daemons.delete(daemon));
    return daemon;
  }

  /** Of these, the one with most rows in hand, or any. */
  async busiest(
    db: Pick<TestDatabase, 'sql'>,
    among: Iterable<ChildProcess> = this.daemons,
  ): Promise<ChildProcess | undefined> {
    return (await this.busy(db, among)) ?? [...among].find(daemon => this.daemons.has(daemon));
  }

  /** Of these, the one with most rows in hand, if any has: a worker's name tells its process. */
  async busy(
    db: Pick<TestDatabase, 'sql'>,
    among: Iterable<ChildProcess> = this.daemons,
  ): Promise<ChildProcess | undefined> {
    const held =
      'SELECT w.name FROM afterdelete.running_file_cleanup r JOIN afterdelete.worker w ON w.id = r.worker GROUP BY w.name ORDER BY count(*) DESC';
    // PostgreSQL may be down just now.
    const rows = await db.sql<{ name: string }>(held).catch(() => []);
    const pids = rows.map(row => Number(row.name.split('/')[1]));
    const candidates = [...among].filter(daemon => this.daemons.has(daemon));
    return pids
      .map(pid => candidates.find(daemon => daemon.pid === pid))
      .find(daemon => daemon !== undefined);
  }

  /** Ends all: at the latest by SIGKILL, which a stopped one takes too. */
  async end(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    await Promise.all(
      [...this.daemons].map(async daemon => {
        const closed = once(daemon, 'close');
        daemon.kill(signal);
        await closed;
      }),
    );
  }
}
