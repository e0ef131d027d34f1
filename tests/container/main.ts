/**
 * The Dockerfile without a container engine: carries its steps out in a directory, and runs what they leave as another
 * user, with the environment of the image and nothing else, until SIGTERM. Ends with 1 at the first thing that is wrong.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { startS3Server } from '../s3-server/server.ts';
import { openTestDatabase } from '../support/database.ts';
import { freePort, startPostgres } from '../support/postgres.ts';
import { buildImage, type Image, sizeOf } from './image.ts';

const CONTEXT = fileURLToPath(new URL('../../', import.meta.url));
/** `nobody`; only root can become somebody else. */
const OTHER_USER = process.getuid?.() === 0 ? { uid: 65534, gid: 65534 } : {};
/** After which Docker kills, in ms. */
const STOP_LIMIT = 10_000;
const BUCKET = 'lab';

const say = (line: string) => console.log(`container: ${line}`);

function demand(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Error(what);
}

/** Undone in reverse order, whatever happens. */
const undo: (() => void | Promise<void>)[] = [];

async function cleanUp(): Promise<void> {
  for (let step = undo.pop(); step !== undefined; step = undo.pop()) await step();
}

type Env = Readonly<Record<string, string>>;

/** A process of the image: its variables over those of the image, its user, its code that cannot be changed. */
function start(image: Image, command: readonly string[], env: Env): ChildProcess {
  const [program = '', ...args] = command;
  demand(
    existsSync(join(image.bin, program)),
    `${program} is not in the base image's PATH as it is known here`,
  );
  const child = spawn(join(image.bin, program), args.map(image.map), {
    cwd: image.map(image.config.workdir),
    env: { PATH: image.bin, HOME: '/nonexistent', ...image.config.env, ...env },
    ...OTHER_USER,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  undo.push(() => void child.kill('SIGKILL'));
  return child;
}

interface Ended {
  readonly code: number | string | null;
  readonly output: string;
}

async function ended(child: ChildProcess): Promise<Ended> {
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
  }
  return await new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => resolve({ code: code ?? signal, output }));
  });
}

async function until(condition: () => boolean | Promise<boolean>, what: () => string): Promise<void> {
  const end = performance.now() + 20_000;
  while (!(await condition())) {
    demand(performance.now() < end, `waited 20 s for ${what()}`);
    await new Promise(resolve => setTimeout(resolve, 25));
  }
}

async function canListen(address: string): Promise<boolean> {
  const [host = '', port] = address.split(':');
  return await new Promise(resolve => {
    const probe = createServer();
    probe.once('error', () => resolve(false));
    probe.listen(Number(port), host, () => probe.close(() => resolve(true)));
  });
}

function makeReadOnly(image: Image): void {
  demand(spawnSync('chmod', ['-R', 'a-w', image.root]).status === 0, 'chmod failed');
  // Or its owner could not remove it.
  undo.push(() => void spawnSync('chmod', ['-R', 'u+w', image.root]));
}

function printSizes({ root, config }: Image): void {
  const app = join(root, config.workdir);
  const mib = (path: string) => `${(sizeOf(path) / 2 ** 20).toFixed(1)} MiB`;
  const parts = readdirSync(app).map(name => `${name} ${mib(join(app, name))}`);
  say(`size on top of the base image: ${mib(root)} (${parts.join(', ')})`);
}

async function main(): Promise<void> {
  // As in an engine; with a stricter one, the other user could not read the code.
  process.umask(0o022);
  const work = realpathSync(mkdtempSync('/tmp/afterdelete-container-'));
  undo.push(() => rmSync(work, { recursive: true, force: true, maxRetries: 20 }));
  chmodSync(work, 0o755);
  const image = await buildImage({
    context: CONTEXT,
    work,
    log: say,
    onStart: end => undo.push(end),
  });
  const { config, root } = image;
  const app = join(root, config.workdir);
  const there = readdirSync(app).sort().join(' ');
  demand(there === 'dist node_modules package.json sql', `in the image's ${config.workdir}: ${there}`);
  demand(
    /^[1-9]\d*:[1-9]\d*$/.test(config.user),
    `USER: expected numbers other than root's, got ${config.user}`,
  );
  const { devDependencies } = JSON.parse(readFileSync(join(app, 'package.json'), 'utf8'));
  const surplus = Object.keys(devDependencies).filter(name => existsSync(join(app, 'node_modules', name)));
  demand(surplus.length === 0, `in the image, and only for development: ${surplus.join(', ')}`);
  printSizes(image);
  makeReadOnly(image);

  const server = await startPostgres();
  undo.push(() => server.destroy());
  const s3 = await startS3Server({ buckets: [BUCKET] });
  undo.push(() => s3.stop());
  const data = join(work, 'data');
  mkdirSync(data);
  if (OTHER_USER.uid !== undefined) chownSync(data, OTHER_USER.uid, OTHER_USER.gid);

  const http = config.env.AFTERDELETE_HTTP ?? '';
  demand(http.endsWith(`:${config.ports[0]}`), `EXPOSE ${config.ports[0]}, but AFTERDELETE_HTTP=${http}`);
  const env: Record<string, string> = {
    DATABASE_URL: server.url(),
    AFTERDELETE_ROOTS: `file://${data}/ s3://${BUCKET}/`,
    AWS_ENDPOINT_URL_S3: s3.endpoint,
    AWS_ACCESS_KEY_ID: s3.accessKeyId,
    AWS_SECRET_ACCESS_KEY: s3.secretAccessKey,
    AWS_REGION: 'us-east-1',
  };
  if (!(await canListen(http))) {
    env.AFTERDELETE_HTTP = `0.0.0.0:${await freePort()}`;
    say(`${http} is taken on this machine: AFTERDELETE_HTTP=${env.AFTERDELETE_HTTP} instead`);
  }

  const who = OTHER_USER.uid === undefined ? 'the same user, who is not root' : `user ${OTHER_USER.uid}`;
  const write = `require('node:fs').writeFileSync(${JSON.stringify(join(app, 'dist/cli/main.js'))}, '')`;
  const refused = await ended(start(image, ['node', '-e', write], {}));
  demand(refused.code === 1 && /EACCES/.test(refused.output), `the code can be changed: ${refused.output}`);
  say(`runs as ${who}, who cannot change the code`);

  const migrated = await ended(start(image, [...config.entrypoint, 'migrate'], env));
  demand(migrated.code === 0, `migrate ended with ${migrated.code}: ${migrated.output}`);
  say(`migrate: ${migrated.output.trim().split('\n').at(-1)}`);

  const health = async () => await ended(start(image, config.healthcheck, env));
  demand((await health()).code === 1, 'the health check succeeds without a daemon');

  const daemon = start(image, [...config.entrypoint, ...config.cmd], env);
  const lines: string[] = [];
  for (const stream of [daemon.stdout, daemon.stderr]) {
    if (stream) createInterface({ input: stream }).on('line', line => lines.push(line));
  }
  const tail = () => `; the daemon's last lines:\n${lines.slice(-15).join('\n')}`;
  const exit = ended(daemon);
  let running = true;
  void exit.then(() => {
    running = false;
  });
  await until(
    () => !running || lines.some(line => line.includes('"event":"started"')),
    () => `the daemon's start${tail()}`,
  );
  demand(running, `the daemon ended${tail()}`);
  const healthy = await health();
  demand(healthy.code === 0, `the health check ended with ${healthy.code}: ${healthy.output}${tail()}`);
  say('the daemon runs; HEALTHCHECK: healthy');

  const file = join(data, 'a.bin');
  const neighbour = join(data, 'b.bin');
  for (const path of [file, neighbour]) writeFileSync(path, 'content');
  s3.buckets.put(BUCKET, 'results/1', 'content');
  const db = openTestDatabase(server.url(), 'postgres');
  undo.push(() => db.close());
  await db.sql('INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ($1), ($2)', [
    `file://${file}`,
    `s3://${BUCKET}/results/1`,
  ]);
  const done = async () =>
    await db.sql<{ outcome: string }>(
      `SELECT outcome FROM afterdelete.done_file_cleanup WHERE outcome = 'deleted'`,
    );
  await until(
    async () => (await done()).length === 2,
    () => `two cleanups${tail()}`,
  );
  demand(!existsSync(file) && !s3.buckets.has(BUCKET, 'results/1'), 'done, and not gone');
  demand(existsSync(neighbour), 'the file beside it is gone too');
  say('one file and one S3 object deleted, the file beside it is still there');

  const asked = performance.now();
  daemon.kill('SIGTERM');
  const late = setTimeout(() => daemon.kill('SIGKILL'), STOP_LIMIT);
  const { code } = await exit;
  clearTimeout(late);
  demand(code === 0, `after SIGTERM the daemon ended with ${code}, expected 0 within 10 s${tail()}`);
  demand(
    lines.some(line => line.includes('"event":"stopped"')),
    `it did not say that it stopped${tail()}`,
  );
  say(`SIGTERM: exit 0 after ${((performance.now() - asked) / 1000).toFixed(2)} s (Docker waits 10)`);
  demand((await health()).code === 1, 'the health check succeeds after the end of the daemon');
}

for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const) {
  process.once(signal, () => void cleanUp().finally(() => process.exit(code)));
}
try {
  await main();
  await cleanUp();
  say('all of it is as it should be; nothing is left behind');
} catch (error) {
  console.error(`container: FAILED: ${error instanceof Error ? error.message : String(error)}`);
  await cleanUp();
  process.exit(1);
}
