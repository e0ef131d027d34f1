/**
 * On a real server beside others: `npm run bench:s3:real -- [rows] [objects] [rounds] [memory|disk] [versitygw|minio] [prefetch]`.
 * Rows of single objects against a bare loop of DeleteObjects; a prefix against `s5cmd rm` and, where it is installed,
 * `rclone delete`. Needs Go to build the server and s5cmd. BENCH_NODE_FLAGS, e.g. `--cpu-prof`, go to the daemon's Node.
 */
import { type ChildProcess, execFileSync, spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { CreateBucketCommand, DeleteObjectsCommand, S3Client } from '@aws-sdk/client-s3';
import pLimit from 'p-limit';
import { builtProgram, hasGo } from '../tests/s3-servers/build.ts';
import { SERVERS, type ServerName, startRealServer } from '../tests/s3-servers/start.ts';
import { quickPlace } from '../tests/support/memory.ts';
import { judge } from './contestants/race.ts';
import { drain, end, start } from './s3/drain.ts';
import { BYTES, keyInSql, keysBelow, objectsOf } from './s3/objects.ts';
import { cpuSeconds, machine, median, onStage, type Stage } from './stage.ts';

const ROWS = Number(process.argv[2] ?? 20_000);
const OBJECTS = Number(process.argv[3] ?? 100_000);
const ROUNDS = Number(process.argv[4] ?? 5);
/** `disk`: the server keeps its objects on the disk of the system's temporary directory, as servers do; else in memory. */
const ON_DISK = process.argv[5] === 'disk';
const SERVER = (process.argv[6] ?? 'versitygw') as ServerName;
/** Rows in hand; default: the daemon's own, which is 4 requests of 1,000. */
const PREFETCH = process.argv[7];
const BUCKET = 'bench';
/** Storage calls in flight, of the daemon and of the loop. */
const CONCURRENCY = 16;

if (!SERVERS.includes(SERVER))
  throw new Error(`server: expected one of ${SERVERS.join(', ')}, got ${SERVER}`);
if (!hasGo()) {
  console.log('bench:s3:real: skipped, because there is no Go toolchain to build a server with');
  process.exit(0);
}

async function timed(work: () => unknown): Promise<number> {
  const begun = performance.now();
  await work();
  return (performance.now() - begun) / 1000;
}

// By default in memory where that is possible: on a disk, making the objects takes longer than all that is measured.
const server = await startRealServer(SERVER, ON_DISK ? tmpdir() : quickPlace());
const env = {
  AWS_ENDPOINT_URL_S3: server.endpoint,
  AWS_ACCESS_KEY_ID: server.accessKeyId,
  AWS_SECRET_ACCESS_KEY: server.secretAccessKey,
  AWS_REGION: server.region,
};
const { endpoint, region, ...credentials } = server;
const client = new S3Client({ endpoint, region, forcePathStyle: true, credentials });
const objects = objectsOf(server, client, BUCKET);

async function assertEmpty(who: string): Promise<void> {
  const left = await objects.left();
  if (left > 0) throw new Error(`${who} left ${left} objects`);
}

/** 1,000 keys a request, as many requests at the same time as the daemon may have. */
async function bareLoop(keys: readonly string[]): Promise<void> {
  const batches = Array.from({ length: Math.ceil(keys.length / 1000) }, (_, n) =>
    keys.slice(n * 1000, (n + 1) * 1000),
  );
  await pLimit(CONCURRENCY).map(batches, async batch => {
    const Delete = { Quiet: true, Objects: batch.map(Key => ({ Key })) };
    const { Errors = [] } = await client.send(new DeleteObjectsCommand({ Bucket: BUCKET, Delete }));
    if (Errors.length > 0) throw new Error(`${Errors[0]?.Key}: ${Errors[0]?.Code}`);
  });
}

/** CPU time of processes, added up over rounds, in seconds: unlike the machine's own, it does not count its neighbours. */
type Cpu<Who extends string> = Record<Who, { readonly now: () => number; sum: number }>;

async function spending<Who extends string, T>(cpu: Cpu<Who>, work: () => Promise<T>): Promise<T> {
  const each = Object.values<Cpu<Who>[Who]>(cpu);
  for (const one of each) one.sum -= one.now();
  const result = await work();
  for (const one of each) one.sum += one.now();
  return result;
}

async function rows(stage: Stage, daemon: ChildProcess): Promise<void> {
  const rates = { ours: [] as number[], loop: [] as number[] };
  const of = (now: () => number) => ({ now, sum: 0 });
  const theirs = { loop: of(() => cpuSeconds(process.pid)), server: of(() => cpuSeconds(server.pid)) };
  const own = {
    daemon: of(() => cpuSeconds(daemon.pid ?? 0)),
    PostgreSQL: of(() => stage.serverCpu()),
    server: of(() => cpuSeconds(server.pid)),
  };
  const keys = keysBelow('r/', ROWS);
  const target = keyInSql(`s3://${BUCKET}/r/`);
  const runLoop = async () => {
    rates.loop.push(ROWS / (await spending(theirs, () => timed(() => bareLoop(keys)))));
    await assertEmpty('the loop');
  };
  const runDaemon = async () => {
    const { seconds, odd } = await spending(own, () => drain(stage, target, ROWS));
    await assertEmpty('the daemon');
    if (odd > 0) throw new Error(`${odd} rows ended oddly`);
    rates.ours.push(ROWS / seconds);
  };
  for (let round = 1; round <= ROUNDS; round++) {
    // Each is first as often as last.
    const turn = [runLoop, runDaemon];
    for (const run of round % 2 === 1 ? turn : turn.reverse()) {
      await objects.make(keys);
      await run();
    }
    const [our = 0, their = 0] = [rates.ours.at(-1), rates.loop.at(-1)];
    console.log(
      `round ${round} of ${ROUNDS}: ${Math.round(our)} rows a second, the loop ${Math.round(their)}`,
    );
  }
  const [ours, loop] = [median(rates.ours), median(rates.loop)];
  console.log(
    `${ROWS} rows: ${Math.round(ours)} a second; a bare loop of DeleteObjects: ${Math.round(loop)}`,
  );
  const tell = (cpu: Readonly<Record<string, { sum: number }>>) =>
    Object.entries(cpu)
      .map(([who, { sum }]) => `${who} ${((1e6 * sum) / ROWS / ROUNDS).toFixed(1)}`)
      .join(', ');
  console.log(`CPU a row, with writing it, in µs: ${tell(own)}; of the loop: ${tell(theirs)}`);
  judge('rows ÷ the bare loop', ours / loop, 0.8, 'at least');
}

async function prefix(stage: Stage): Promise<void> {
  const s5cmd = builtProgram('s5cmd');
  // rclone's older SDK cannot do with a bundle of certificates, which nothing here needs.
  const { AWS_CA_BUNDLE: _, ...inherited } = process.env;
  const all = { ...inherited, ...env };
  const tools: Record<string, () => unknown> = {};
  if (s5cmd !== undefined) {
    const args = ['--endpoint-url', server.endpoint, '--log', 'error', 'rm', `s3://${BUCKET}/p/*`];
    tools['s5cmd rm'] = () => execFileSync(s5cmd, args, { env: all, stdio: 'inherit' });
  }
  if (spawnSync('rclone', ['version']).status === 0) {
    const remote = `:s3,provider=Other,env_auth=true,endpoint="${server.endpoint}",force_path_style=true:${BUCKET}/p`;
    tools['rclone delete'] = () =>
      execFileSync('rclone', ['delete', '--checkers', String(CONCURRENCY), remote], {
        env: all,
        stdio: 'inherit',
      });
  }
  const seconds = new Map<string, number[]>();
  const note = (who: string, took: number) => seconds.set(who, [...(seconds.get(who) ?? []), took]);
  for (let round = 1; round <= ROUNDS; round++) {
    for (const [who, tool] of Object.entries(tools)) {
      await objects.make(keysBelow('p/', OBJECTS));
      note(who, await timed(tool));
      await assertEmpty(who);
    }
    await objects.make(keysBelow('p/', OBJECTS));
    const drained = await drain(stage, `'s3://${BUCKET}/p/'`, 1);
    await assertEmpty('the daemon');
    if (drained.objects !== OBJECTS || drained.bytes !== BYTES * OBJECTS) {
      throw new Error(`${drained.objects} objects and ${drained.bytes} bytes counted`);
    }
    note('ours', drained.seconds);
  }
  const ours = median(seconds.get('ours') ?? []);
  console.log(`a prefix of ${OBJECTS} objects, all bytes counted: ${ours.toFixed(2)} s`);
  for (const who of Object.keys(tools)) {
    const theirs = median(seconds.get(who) ?? []);
    const goal = who === 's5cmd rm' ? 1.15 : 1;
    judge(`our time ÷ that of ${who} (${theirs.toFixed(2)} s)`, ours / theirs, goal, 'at most');
  }
}

try {
  await client.send(new CreateBucketCommand({ Bucket: BUCKET }));
  await onStage(async stage => {
    const daemon = await start(stage, {
      ...env,
      AFTERDELETE_ROOTS: `s3://${BUCKET}/`,
      AFTERDELETE_CONCURRENCY: String(CONCURRENCY),
      AFTERDELETE_PREFETCH: PREFETCH,
    });
    if (ROWS > 0) await rows(stage, daemon);
    if (OBJECTS > 0) await prefix(stage);
    await end(daemon);
  });
} finally {
  await server.stop();
}
console.log(`${ROUNDS} rounds, ${SERVER}, objects ${ON_DISK ? 'on disk' : 'in memory'}; ${machine()}`);
