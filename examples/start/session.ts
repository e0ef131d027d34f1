/** What `npm start` starts: a PostgreSQL if none is given, the schema, a root with a file to try on, and the daemon. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { migrate } from '../../src/outbox/migrate.ts';
import { freePort, type PostgresServer, startPostgres } from '../../tests/support/postgres.ts';

const MAIN = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));
const HOME = resolve('.afterdelete');
const LOCK = join(HOME, 'start.pid');
const FILES = join(HOME, 'files');
/** Where the daemon serves metrics and health, unless something else is there already. */
const HTTP = 9464;

class StartError extends Error {}

/** Two at once in one directory would share a PostgreSQL, and the first to end would stop it for both. */
function lock(): void {
  mkdirSync(HOME, { recursive: true });
  const other = existsSync(LOCK) ? Number(readFileSync(LOCK, 'utf8')) : undefined;
  if (other !== undefined && isAlive(other)) {
    throw new StartError(`npm start runs already in this directory (process ${other}): stop that one first`);
  }
  writeFileSync(LOCK, `${process.pid}\n`);
  process.on('exit', () => rmSync(LOCK, { force: true }));
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** PostgreSQL under `.afterdelete/`, with the data of the last start, on the same port if it is free. */
async function startOwnPostgres(): Promise<PostgresServer> {
  const directory = join(HOME, 'postgres');
  if (process.getuid?.() === 0) assertReachable(HOME);
  const note = join(HOME, 'port');
  const last = existsSync(note) ? Number(readFileSync(note, 'utf8')) : undefined;
  const port = last !== undefined && (await isFree(last)) ? last : await freePort();
  const server = await startPostgres({ directory, port, fsync: 'on' });
  writeFileSync(note, `${port}\n`);
  return server;
}

/** Run by root, PostgreSQL drops to the user `postgres`, who must get to its data. */
function assertReachable(directory: string): void {
  for (let at = directory; at !== dirname(at); at = dirname(at)) {
    if ((statSync(at).mode & 0o001) === 0) {
      throw new StartError(
        `as root, PostgreSQL runs as the user postgres, who may not enter ${at}: run npm start as another user, or in a directory that others may enter, or set DATABASE_URL`,
      );
    }
  }
}

async function isFree(port: number): Promise<boolean> {
  return await new Promise(answer => {
    const probe = createServer();
    probe.once('error', () => answer(false));
    probe.listen(port, '127.0.0.1', () => probe.close(() => answer(true)));
  });
}

/** Something to try it on, written anew with every start; named so that the printed lines need no quoting. */
function writeSample(): string {
  mkdirSync(FILES, { recursive: true });
  const path = join(FILES, 'sample.txt');
  writeFileSync(path, 'Delete me with the printed INSERT.\n');
  return path;
}

function introduce(url: string, own: boolean, sample: string | undefined, http: string): void {
  const lines = [
    '',
    own ? `A PostgreSQL of its own has been started; its data stay in ${HOME}.` : 'It works on DATABASE_URL.',
    ...(own ? [`  psql "${url}"`] : []),
    `Metrics and health: http://${http}/metrics, /healthz, /readyz`,
  ];
  if (sample !== undefined) {
    const target = `file://${sample}`.replaceAll("'", "''");
    lines.push(
      `Files below ${FILES} may be deleted. Try it, in another terminal:`,
      `  INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ('${target}');`,
    );
  }
  console.log([...lines, 'Ctrl-C ends everything.', ''].join('\n'));
}

async function run(): Promise<number> {
  let server: PostgresServer | undefined;
  let daemon: ChildProcess | undefined;
  let ended = false;
  const end = (signal: NodeJS.Signals) => {
    ended = true;
    daemon?.kill(signal);
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => end(signal));
  // The process that passes signals on is gone.
  process.once('disconnect', () => end('SIGTERM'));
  try {
    lock();
    const given = process.env.DATABASE_URL;
    if (given === undefined || given === '') server = await startOwnPostgres();
    const url = server?.url() ?? (given as string);
    await migrate(process.env.AFTERDELETE_LISTEN_URL?.replace(/^off$/, '') || url);
    const roots = process.env.AFTERDELETE_ROOTS;
    const sample = roots === undefined || roots === '' ? writeSample() : undefined;
    const http =
      process.env.AFTERDELETE_HTTP || `127.0.0.1:${(await isFree(HTTP)) ? HTTP : await freePort()}`;
    if (ended) return 0;
    introduce(url, server !== undefined, sample, http);
    const env = {
      ...process.env,
      DATABASE_URL: url,
      AFTERDELETE_HTTP: http,
      AFTERDELETE_ROOTS: sample === undefined ? roots : `file://${FILES}/`,
    };
    daemon = spawn(process.execPath, [MAIN, 'run'], { env, stdio: ['ignore', 'inherit', 'inherit'] });
    return await new Promise((resolve, reject) => {
      daemon?.once('error', reject);
      // Told to end before it could listen to signals, it has nothing in hand to hand back.
      daemon?.once('exit', code => resolve(code ?? (ended ? 0 : 1)));
    });
  } finally {
    await server?.stop();
  }
}

try {
  process.exitCode = await run();
} catch (error) {
  console.error(`npm start: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}
if (process.connected) process.disconnect();
