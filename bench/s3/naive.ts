/**
 * What most applications have: a table of keys, and a worker that takes a row, sends a DeleteObject and commits, so many at a
 * time. A process of its own, as the daemon is; it speaks through the same SDK, and keeps its connections.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { DeleteObjectCommand, S3Client } from '@aws-sdk/client-s3';
import pg from 'pg';
import type { Stage } from '../stage.ts';
import { BUCKET } from './server.ts';

const TABLE = 'naive_deletion';

/**
 * Writes rows, has the worker delete their objects, and waits until the table is empty. @returns seconds of work, without
 * its start: its connections to PostgreSQL are open before the clock runs.
 */
export async function drainNaively(
  { db, url }: Stage,
  env: Readonly<Record<string, string>>,
  { key, rows, concurrency }: { key: string; rows: number; concurrency: number },
): Promise<number> {
  await db.sql(`CREATE TABLE IF NOT EXISTS ${TABLE} (id bigint PRIMARY KEY, key text NOT NULL)`);
  await db.sql(`TRUNCATE ${TABLE}`);
  const worker = fork(fileURLToPath(import.meta.url), ['work', url, String(concurrency)], {
    env: { ...process.env, ...env },
  });
  await toldBy(worker);
  await db.sql(`INSERT INTO ${TABLE} SELECT i, ${key} FROM generate_series(1, ${rows}) i`);
  const begun = performance.now();
  worker.send('begin');
  await toldBy(worker);
  const seconds = (performance.now() - begun) / 1000;
  const [left] = await db.sql(`SELECT count(*) AS rows FROM ${TABLE}`);
  if (Number(left?.rows) > 0) throw new Error(`the naive worker left ${left?.rows} rows`);
  worker.disconnect();
  return seconds;
}

/** The worker's next message. */
async function toldBy(worker: ChildProcess): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const failed = (code: number | null) => reject(new Error(`the naive worker ended with ${code}`));
    worker.once('exit', failed);
    worker.once('message', () => {
      worker.off('exit', failed);
      resolve();
    });
  });
}

async function work(url: string, concurrency: number): Promise<void> {
  const endpoint = process.env.AWS_ENDPOINT_URL_S3 ?? '';
  const s3 = new S3Client({ endpoint, region: 'us-east-1', forcePathStyle: true });
  const slots = await Promise.all(
    Array.from({ length: concurrency }, async () => {
      const connection = new pg.Client(url);
      await connection.connect();
      return connection;
    }),
  );
  const take = {
    name: 'take',
    text: `DELETE FROM ${TABLE} WHERE id = (SELECT id FROM ${TABLE} ORDER BY id FOR UPDATE SKIP LOCKED LIMIT 1) RETURNING key`,
  };
  const drainOne = async (connection: pg.Client) => {
    for (;;) {
      await connection.query('BEGIN');
      const { rows } = await connection.query<{ key: string }>(take);
      const [row] = rows;
      if (row !== undefined) await s3.send(new DeleteObjectCommand({ Bucket: BUCKET, Key: row.key }));
      await connection.query('COMMIT');
      if (row === undefined) return;
    }
  };
  process.once('message', async () => {
    await Promise.all(slots.map(drainOne));
    process.send?.('done');
  });
  process.once('disconnect', () => process.exit(0));
  process.send?.('ready');
}

if (process.argv[2] === 'work') await work(process.argv[3] ?? '', Number(process.argv[4]));
