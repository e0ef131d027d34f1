/**
 * Sixteen clients that each delete one watched row a transaction, with a busy daemon beside them, against the same DELETE with
 * an INSERT into a copy of the outbox that has no trigger. What is written there no daemon drains: it gets as many rows of its
 * own meanwhile, so that it works as hard beside both.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type pg from 'pg';
import type { TestDatabase } from '../../tests/support/database.ts';
import { line, median, times } from './report.ts';

const CLIENTS = 16;
/** How often the daemon is fed, in ms. */
const FEED = 20;

/** A statement string of several statements is one transaction and one round trip, like the DELETE of a watched row. */
const CONTESTANTS = {
  watched: (id: number) => `DELETE FROM watched WHERE id = ${id}`,
  'by hand': (id: number) =>
    `DELETE FROM plain WHERE id = ${id}; INSERT INTO outbox_copy (target) VALUES ('file:///data/${id}.bin')`,
};

export async function writers(db: TestDatabase, { deletes = 10_000, rounds = 7 } = {}): Promise<void> {
  await db.sql('CREATE TABLE watched (id int PRIMARY KEY, note text)');
  await db.sql('CREATE TABLE plain (id int PRIMARY KEY, note text)');
  await db.sql("SELECT afterdelete.watch('watched', 'file:///data/{id}.bin')");
  await db.sql('CREATE TABLE outbox_copy (LIKE afterdelete.pending_file_cleanup INCLUDING ALL)');
  // A flush of 2 ms, as on a disk that has no cache: COMMIT waits so long for others to join it.
  await db.sql('ALTER SYSTEM SET commit_delay = 2000');
  await db.sql('ALTER SYSTEM SET commit_siblings = 0');
  await db.sql('SELECT pg_reload_conf()');
  const clients = await Promise.all(Array.from({ length: CLIENTS }, () => db.connect()));
  const daemon = await startDaemon(db.url);
  let cpu = 0;
  let seconds = 0;
  const samples = await times(
    Object.keys(CONTESTANTS) as (keyof typeof CONTESTANTS)[],
    rounds,
    async name => {
      await drained(db);
      await db.sql('TRUNCATE outbox_copy, plain');
      for (const table of ['watched', 'plain'])
        await db.sql(`INSERT INTO ${table} SELECT i FROM generate_series(1, $1) i ON CONFLICT DO NOTHING`, [
          deletes,
        ]);
      await db.sql('VACUUM ANALYZE watched, plain, outbox_copy');
      await db.sql('CHECKPOINT');
      const used = process.cpuUsage();
      const ms = await race(clients, deletes, CONTESTANTS[name], name === 'watched' ? undefined : feed(db));
      const { user, system } = process.cpuUsage(used);
      cpu += (user + system) / 1e6;
      seconds += ms / 1_000;
      return (deletes / ms) * 1_000;
    },
  );
  await drained(db);
  const [captured] = await db.sql<{ n: number }>(
    "SELECT count(*)::int AS n FROM afterdelete.done_file_cleanup WHERE source LIKE 'DELETE on %watched'",
  );
  const all = deletes * (rounds + 1);
  if (captured?.n !== all) throw new Error(`${captured?.n} cleanups of watched rows, expected ${all}`);
  line({
    what: `${CLIENTS} clients, one watched row a transaction, flush of 2 ms, busy daemon`,
    result: `${(median(samples.watched) / median(samples['by hand'])).toFixed(2)} of the commits of DELETE and INSERT into an outbox without triggers (goal: at least 0.9)`,
    samples,
    unit: 'commits/s',
  });
  console.log(`  (the clients' process used ${Math.round((100 * cpu) / seconds)}% of a core)`);
  daemon.kill();
  await db.sql('ALTER SYSTEM RESET commit_delay');
  await db.sql('ALTER SYSTEM RESET commit_siblings');
  await db.sql('SELECT pg_reload_conf()');
  await db.sql('DROP TABLE watched, plain, outbox_copy');
  await db.sql('SELECT afterdelete.unwatch(relation, template) FROM afterdelete.watched');
}

/** How long all the deletes take, in ms: each client does the next one that nobody has done. */
async function race(
  clients: readonly pg.Client[],
  deletes: number,
  statement: (id: number) => string,
  feed: ((rows: number) => Promise<void>) | undefined,
): Promise<number> {
  let next = 0;
  let over = false;
  const feeding = (async () => {
    for (let fed = 0; feed !== undefined && !over; ) {
      await new Promise(resolve => setTimeout(resolve, FEED));
      const rows = next - fed;
      fed += rows;
      await feed(rows);
    }
  })();
  const began = performance.now();
  await Promise.all(
    clients.map(async client => {
      while (next < deletes) {
        next += 1;
        await client.query(statement(next));
      }
    }),
  );
  const ms = performance.now() - began;
  over = true;
  await feeding;
  return ms;
}

function feed(db: TestDatabase): (rows: number) => Promise<void> {
  const insert =
    "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'file:///data/fed/' || i FROM generate_series(1, $1) i";
  return async rows => {
    await db.sql(insert, [rows]);
  };
}

async function drained(db: TestDatabase): Promise<void> {
  for (;;) {
    const [left] = await db.sql<{ n: number }>(
      'SELECT (SELECT count(*) FROM afterdelete.pending_file_cleanup)::int + (SELECT count(*) FROM afterdelete.running_file_cleanup)::int AS n',
    );
    if (left?.n === 0) return;
    await new Promise(resolve => setTimeout(resolve, 50));
  }
}

async function startDaemon(url: string): Promise<ChildProcess> {
  const daemon = fork(fileURLToPath(new URL('noop-daemon.ts', import.meta.url)), [url, 'file:///data/']);
  await new Promise<void>((resolve, reject) => {
    daemon.once('message', () => resolve());
    daemon.once('close', code => reject(new Error(`the daemon ended with ${code}`)));
  });
  return daemon;
}
