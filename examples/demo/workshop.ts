/**
 * Everything that the demo starts, and how it is put away: in any order of events, on errors and on Ctrl-C, no process,
 * directory or socket is left behind.
 */
import { chmodSync, existsSync, mkdtempSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type PostgresServer, startPostgres } from '../../tests/support/postgres.ts';

/** Longest that anything may take to stop, in ms: then it is left to the last sweep. */
const STOP_LIMIT = 6_000;

export class Workshop {
  /** A directory of its own, under the system's temporary one. */
  readonly directory: string;
  readonly #undo: (() => unknown)[] = [];
  readonly #sweep = () => this.#sweepUp();
  readonly #portsBefore = openPorts();
  #postgresPid: number | undefined;

  constructor() {
    // Without links in it: below a root, links are never followed, and macOS's /tmp is one.
    this.directory = mkdtempSync(join(realpathSync(tmpdir()), 'afterdelete-demo-'));
    // Run by root, PostgreSQL drops to another user, who must get to its data.
    chmodSync(this.directory, 0o711);
    // Whatever ends this process, this is still done.
    process.on('exit', this.#sweep);
  }

  /** Says how something that was started is stopped. */
  onClose(undo: () => unknown): void {
    this.#undo.push(undo);
  }

  /** A PostgreSQL of its own, on a free port. */
  async startPostgres(): Promise<PostgresServer> {
    const postgres = await startPostgres({ directory: join(this.directory, 'postgres') });
    this.onClose(() => postgres.destroy());
    const [pid] = readFileSync(join(postgres.directory, 'data', 'postmaster.pid'), 'utf8').split('\n');
    this.#postgresPid = Number(pid);
    return postgres;
  }

  /** Stops everything, the latest first, and returns what is left behind all the same: nothing, one hopes. */
  async close(): Promise<string[]> {
    const left: string[] = [];
    for (let undo = this.#undo.pop(); undo !== undefined; undo = this.#undo.pop()) {
      await within(STOP_LIMIT, undo).catch(error => left.push(String(error)));
    }
    this.#sweepUp();
    process.off('exit', this.#sweep);
    if (existsSync(this.directory)) left.push(this.directory);
    if (this.#postgresLives()) left.push(`PostgreSQL, process ${this.#postgresPid}`);
    if (openPorts() > this.#portsBefore) left.push('a port on which this process listens');
    return left;
  }

  /** What can be done without waiting: the way out of last resort. */
  #sweepUp(): void {
    if (this.#postgresPid !== undefined && this.#postgresLives()) process.kill(this.#postgresPid, 'SIGQUIT');
    rmSync(this.directory, { recursive: true, force: true, maxRetries: 20 });
  }

  #postgresLives(): boolean {
    if (this.#postgresPid === undefined) return false;
    try {
      return process.kill(this.#postgresPid, 0);
    } catch {
      return false;
    }
  }
}

/** On how many ports this process listens. */
function openPorts(): number {
  return process.getActiveResourcesInfo().filter(resource => resource === 'TCPServerWrap').length;
}

async function within(ms: number, work: () => unknown): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`something did not stop within ${ms / 1000} s`)), ms);
  });
  try {
    await Promise.race([work(), limit]);
  } finally {
    clearTimeout(timer);
  }
}
