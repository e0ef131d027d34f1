/** `npm start` as people use it: what it prints works as printed, a second start finds the data, Ctrl-C ends everything. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdtempSync, readdirSync, realpathSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { describe, expect, it, onTestFinished } from 'vitest';
import { createDatabase } from '../support/database.ts';
import { until } from '../support/reconciler.ts';

const START = fileURLToPath(new URL('../../examples/start/main.ts', import.meta.url));

function temporaryDirectory(): string {
  const path = realpathSync(mkdtempSync(join(tmpdir(), 'afterdelete-start-')));
  // Run by root, PostgreSQL drops to another user, who must get to its data.
  chmodSync(path, 0o755);
  onTestFinished(() => rmSync(path, { recursive: true, force: true, maxRetries: 20 }));
  return path;
}

interface Started {
  readonly child: ChildProcess;
  /** The first match of a pattern in what it prints. */
  says(pattern: RegExp): Promise<string>;
  /** Its exit code, once it has ended. */
  readonly ended: Promise<number | null>;
  /** Ends it, and resolves to its exit code. */
  interrupt(): Promise<number | null>;
}

function start(cwd: string, env: NodeJS.ProcessEnv = {}): Started {
  const { PATH, HOME, TMPDIR } = process.env;
  const child = spawn(process.execPath, [START], {
    cwd,
    env: { PATH, HOME, TMPDIR, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', text => {
      output += text;
    });
  }
  const ended = once(child, 'close').then(([code]) => code as number | null);
  const interrupt = async () => {
    child.kill('SIGINT');
    return await ended;
  };
  onTestFinished(async () => {
    await interrupt();
  });
  return {
    child,
    ended,
    interrupt,
    says: async pattern => {
      await until(() => {
        if (!pattern.test(output) && child.exitCode !== null)
          throw new Error(`it ended without saying ${pattern}:\n${output}`);
        return pattern.test(output);
      }, String(pattern));
      const [whole, group] = pattern.exec(output) ?? [];
      return group ?? whole ?? '';
    },
  };
}

async function execute<Row extends pg.QueryResultRow>(url: string, sql: string): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url });
  // The server may stop just now.
  client.on('error', () => {});
  await client.connect();
  try {
    return (await client.query<Row>(sql)).rows;
  } finally {
    await client.end();
  }
}

const CONNECTION = /psql "(.*)"/;
const INSERT = /^ *(INSERT INTO afterdelete.*;)$/m;

describe('npm start without DATABASE_URL', () => {
  it('prints what works as printed; the second start finds the data; Ctrl-C ends everything', async () => {
    const cwd = temporaryDirectory();
    const first = start(cwd);
    const url = await first.says(CONNECTION);
    await execute(url, await first.says(INSERT));
    const sample = join(cwd, '.afterdelete', 'files', 'sample.txt');
    await until(() => !existsSync(sample), 'the sample to go');
    await first.says(/"event":"cleanup_done"/);
    expect(await first.interrupt()).toBe(0);
    await expect(execute(url, 'SELECT 1')).rejects.toThrow();

    const second = start(cwd);
    expect(await second.says(CONNECTION)).toBe(url);
    expect(await execute(url, 'SELECT target FROM afterdelete.done_file_cleanup')).toEqual([
      { target: `file://${sample}` },
    ]);
    expect(existsSync(sample)).toBe(true);
    expect(await second.interrupt()).toBe(0);
    expect(readdirSync(join(cwd, '.afterdelete')).sort()).toEqual(['files', 'port', 'postgres']);
  });

  it('goes on after it was killed, with what it had', async () => {
    const cwd = temporaryDirectory();
    const first = start(cwd);
    const url = await first.says(CONNECTION);
    await first.says(/"event":"listen_restored"/);
    first.child.kill('SIGKILL');
    // The session behind it sees that, and puts everything away.
    await until(
      async () =>
        await execute(url, 'SELECT 1').then(
          () => false,
          () => true,
        ),
      'the end of PostgreSQL',
    );
    await until(() => !existsSync(join(cwd, '.afterdelete', 'start.pid')), 'the end of the session');
    const second = start(cwd);
    await second.says(/"event":"listen_restored"/);
    expect(await second.interrupt()).toBe(0);
  });

  it('a second time in the same directory is refused, and harms nothing', async () => {
    const cwd = temporaryDirectory();
    const first = start(cwd);
    const url = await first.says(CONNECTION);
    const second = start(cwd);
    await second.says(/npm start runs already in this directory \(process \d+\): stop that one first/);
    expect(await second.ended).toBe(1);
    expect(await execute(url, 'SELECT 1 AS one')).toEqual([{ one: 1 }]);
    expect(await first.interrupt()).toBe(0);
  });
});

describe('npm start with DATABASE_URL', () => {
  it('migrates it, and takes another port when the usual one is taken', async () => {
    const db = await createDatabase({ empty: true });
    const other = createServer((_, response) => response.end());
    // Whoever has 9464, this test or somebody else: it is taken.
    await new Promise<void>(resolve => {
      other.once('error', () => resolve());
      other.listen(9464, '127.0.0.1', resolve);
    });
    onTestFinished(() => void other.close());
    const cwd = temporaryDirectory();
    const started = start(cwd, { DATABASE_URL: db.url });
    const port = await started.says(/http:\/\/127\.0\.0\.1:(\d+)\/metrics/);
    expect(port).not.toBe('9464');
    await started.says(/"event":"listen_restored"/);
    expect((await fetch(`http://127.0.0.1:${port}/readyz`)).status).toBe(200);
    await db.sql(await started.says(INSERT));
    await started.says(/"event":"cleanup_done"/);
    expect(await started.interrupt()).toBe(0);
  });
});
