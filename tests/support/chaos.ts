/**
 * Many rows of mixed files, trees, objects and prefixes; three daemons, one of them killed again and again; PostgreSQL
 * crashed once in between. At the end every target is gone, each row stands once in the audit trail, none is dead, and
 * what lies beside the targets is untouched. The suite plays it small, `bench/chaos.ts` in full.
 */
import { existsSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { migrate } from '../../src/outbox/migrate.ts';
import { type S3Server, startS3Server } from '../s3-server/server.ts';
import { openTestDatabase } from './database.ts';
import { Fleet } from './fleet.ts';
import { startPostgres } from './postgres.ts';

export interface ChaosOptions {
  readonly rows: number;
  /** They are written in so many transactions, one every `pace` ms. */
  readonly transactions: number;
  readonly pace: number;
  readonly daemons: number;
  /** How often a daemon that has rows in hand is killed, in ms. */
  readonly killEvery: number;
  /** The lease, as the configuration has it. */
  readonly lease: string;
  /** Longest that the rows may take once all are written, in ms. */
  readonly patience: number;
  readonly log?: (line: string) => void;
}

export interface ChaosReport {
  readonly kills: number;
  /** Rows that were in the hands of killed daemons, and that others took over. */
  readonly takenOver: number;
  readonly seconds: number;
  readonly targetsLeft: number;
  readonly neighboursLost: number;
  /** Rows of the audit trail, and how many ids they have. */
  readonly done: number;
  readonly ids: number;
  readonly dead: readonly string[];
  readonly elsewhere: number;
}

const BUCKET = 'chaos';
/** So many daemons are killed, if there are rows long enough. */
const LEAST_KILLS = 2;

/** What is to be deleted, and what lies beside it. */
interface World {
  readonly root: string;
  readonly targets: readonly string[];
  targetsLeft(): number;
  neighboursLost(): number;
}

function createWorld(directory: string, s3: S3Server, rows: number): World {
  const root = `file://${directory}/`;
  const targets: string[] = [];
  const files: string[] = [];
  const trees: string[] = [];
  const keys: string[] = [];
  const neighbourFiles: string[] = [];
  const neighbourKeys: string[] = [];
  const write = (path: string) => {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, 'x');
    return path;
  };
  const put = (key: string) => {
    s3.buckets.put(BUCKET, key, 'x');
    return key;
  };
  for (let i = 0; i < rows; i++) {
    const folder = `${i % 50}`;
    if (i % 10 < 5) {
      files.push(write(join(directory, folder, `${i}.bin`)));
      targets.push(`${root}${folder}/${i}.bin`);
    } else if (i % 10 < 7) {
      for (const name of ['a', 'b/c', 'b/d']) write(join(directory, folder, `t${i}`, name));
      trees.push(join(directory, folder, `t${i}`));
      targets.push(`${root}${folder}/t${i}/`);
    } else if (i % 10 < 9) {
      keys.push(put(`o/${i}`));
      targets.push(`s3://${BUCKET}/o/${i}`);
    } else {
      for (let n = 0; n < 3; n++) keys.push(put(`p/${i}/${n}`));
      targets.push(`s3://${BUCKET}/p/${i}/`);
    }
    if (i % 20 === 0) neighbourFiles.push(write(join(directory, folder, `${i}.bin.kept`)));
    if (i % 20 === 5) neighbourFiles.push(write(join(directory, folder, `t${i}-kept`, 'a')));
    if (i % 20 === 9) neighbourKeys.push(put(`p/${i}-kept/0`));
  }
  return {
    root,
    targets,
    targetsLeft: () =>
      [...files, ...trees].filter(path => existsSync(path)).length +
      keys.filter(key => s3.buckets.has(BUCKET, key)).length,
    neighboursLost: () =>
      neighbourFiles.filter(path => !existsSync(path)).length +
      neighbourKeys.filter(key => !s3.buckets.has(BUCKET, key)).length,
  };
}

const pause = (ms: number) => new Promise(resolve => setTimeout(resolve, ms));

export async function playChaos(options: ChaosOptions): Promise<ChaosReport> {
  const log = options.log ?? (() => {});
  const directory = realpathSync(mkdtempSync(join(tmpdir(), 'afterdelete-chaos-')));
  const server = await startPostgres({ fsync: 'on' });
  const s3 = await startS3Server({ buckets: [BUCKET] });
  // A request takes its time, as it does over a network.
  s3.faults.latency(40);
  let fleet: Fleet | undefined;
  const db = openTestDatabase(server.url(), 'postgres');
  let over = false;
  let written = false;
  let kills = 0;
  let takenOver = 0;
  try {
    await migrate(server.url());
    const world = createWorld(directory, s3, options.rows);
    log(`${options.rows} targets written`);
    const daemons = new Fleet({
      databaseUrl: server.url(),
      roots: [world.root, `s3://${BUCKET}/`],
      s3,
      // Slow enough for a kill to find work in hand.
      env: {
        AFTERDELETE_LEASE: options.lease,
        AFTERDELETE_CONCURRENCY: '1',
        AFTERDELETE_PREFETCH: '100',
      },
      onLine: ({ event, moved }) => {
        if (event === 'reaped') takenOver += Number(moved ?? 0);
      },
    });
    fleet = daemons;
    const began = performance.now();
    for (let i = 0; i < options.daemons; i++) daemons.start();

    const killing = (async () => {
      // On a slow machine all may be written before anything was taken over.
      while (!over && !(written && kills >= LEAST_KILLS && takenOver > 0)) {
        await pause(options.killEvery);
        const victim = await daemons.busy(db);
        if (over || victim === undefined) continue;
        victim.kill('SIGKILL');
        kills += 1;
        daemons.start();
      }
    })();

    const size = Math.ceil(world.targets.length / options.transactions);
    for (let t = 0; t < options.transactions; t++) {
      if (t === Math.floor(options.transactions / 2)) {
        log('PostgreSQL crashes');
        await server.stop('immediate');
        await server.start();
      }
      const targets = world.targets.slice(t * size, (t + 1) * size);
      await db.sql('INSERT INTO afterdelete.pending_file_cleanup (target) SELECT * FROM unnest($1::text[])', [
        targets,
      ]);
      await pause(options.pace);
    }
    written = true;
    log(`all rows written; ${kills} daemons killed`);
    const deadline = performance.now() + options.patience;
    const count = async () => {
      const [row] = await db.sql<{ done: number; ids: number; elsewhere: number }>(
        `SELECT count(*)::int AS done, count(DISTINCT id)::int AS ids,
           (SELECT count(*)::int FROM afterdelete.pending_file_cleanup) + (SELECT count(*)::int FROM afterdelete.running_file_cleanup) AS elsewhere
         FROM afterdelete.done_file_cleanup`,
      );
      return row as { done: number; ids: number; elsewhere: number };
    };
    while ((await count()).elsewhere > 0 && performance.now() < deadline) await pause(100);
    const seconds = (performance.now() - began) / 1000;
    over = true;
    await killing;
    const dead = await db.sql<{ message: string }>(
      "SELECT target || ': ' || last_error AS message FROM afterdelete.dead_file_cleanup",
    );
    return {
      kills,
      takenOver,
      seconds,
      targetsLeft: world.targetsLeft(),
      neighboursLost: world.neighboursLost(),
      ...(await count()),
      dead: dead.map(row => row.message),
    };
  } finally {
    over = true;
    await fleet?.end();
    await db.close();
    await s3.stop();
    await server.destroy();
    rmSync(directory, { recursive: true, force: true });
  }
}
