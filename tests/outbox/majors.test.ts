/** The same SQL on every major that is promised. A major whose binaries are not installed is skipped by name. */
import { describe, expect, it } from 'vitest';
import { migrate } from '../../src/outbox/migrate.ts';
import { openTestDatabase } from '../support/database.ts';
import { isInstalled, MAJORS } from '../support/majors.ts';
import { startPostgres } from '../support/postgres.ts';
import {
  addWorker,
  claim,
  expire,
  fill,
  only,
  put,
  STORE,
  settleBack,
  settleDead,
  settleDone,
  states,
  value,
} from './rows.ts';

describe('PostgreSQL', () => {
  for (const major of MAJORS) {
    (isInstalled(major) ? it.concurrent : it.skip)(`${major} carries rows through every state`, async () => {
      const server = await startPostgres({ major });
      const db = openTestDatabase(server.url(), 'postgres');
      try {
        expect(
          Math.floor((await value<number>(db, "SELECT current_setting('server_version_num')::int")) / 10_000),
        ).toBe(major);
        expect((await migrate(server.url())).length).toBeGreaterThan(0);
        await everyState(db);
      } finally {
        await db.close();
        await server.destroy();
      }
    });
  }
});

async function everyState(db: ReturnType<typeof openTestDatabase>): Promise<void> {
  const worker = await addWorker(db);
  await expect(put(db, 'file:///a/../b')).rejects.toMatchObject({ constraint: 'target_has_no_dot_segments' });
  await expect(put(db, 'file:///a\u0085')).rejects.toMatchObject({
    constraint: 'target_has_no_control_characters',
  });

  await fill(db, 100);
  const rows = await claim(db, worker);
  expect(rows).toHaveLength(100);
  expect(await settleDone(db, rows.slice(0, 40))).toHaveLength(40);
  expect(await settleDone(db, rows.slice(0, 40))).toEqual([]);
  expect(await settleBack(db, rows.slice(40, 80), { delay: 3_600_000, error: 'busy' })).toHaveLength(40);
  expect(await settleDead(db, rows.slice(80, 90))).toHaveLength(10);
  await db.sql('SELECT afterdelete.progress($1, $2, $3, $4)', [[rows[95]?.id], [rows[95]?.claim], [5], [50]]);
  await expire(db, worker);
  expect(only(await db.sql('SELECT * FROM afterdelete.reap()'))).toEqual({ workers: 1, moved: 10, died: 0 });
  expect(await states(db)).toEqual({ pending: 50, running: 0, done: 40, dead: 10 });

  const spend = "SELECT granted FROM afterdelete.spend($1, $2, $3, 5, '1 hour')";
  expect(await value(db, spend, [STORE, [`${STORE}/`], [4]])).toEqual([4]);
  expect(await value(db, spend, [STORE, [`${STORE}/`], [4]])).toEqual([1]);
  expect(only(await db.sql('SELECT paused_by FROM afterdelete.store_pause'))).toEqual({ paused_by: 'fuse' });
  await db.sql('SELECT afterdelete.give_back($1, $2, $3, clock_timestamp())', [STORE, [`${STORE}/`], [1]]);
  await db.sql('SELECT afterdelete.resume($1)', [STORE]);
  expect(await db.sql('SELECT FROM afterdelete.fuse_count')).toEqual([]);

  expect(await value(db, 'SELECT afterdelete.next_due($1)', [[STORE]])).toBeGreaterThan(0);
  expect(await value(db, 'SELECT afterdelete.retry($1)', [rows[40]?.id])).toBe(true);
  expect(await value(db, 'SELECT afterdelete.retry($1)', [rows[80]?.id])).toBe(true);
  expect(await value(db, "SELECT afterdelete.discard($1, 'note')", [rows[81]?.id])).toBe(true);
  expect(await value(db, 'SELECT afterdelete.cancel($1)', [rows[41]?.id])).toBe(true);
  await db.sql('SELECT afterdelete.confirm($1)', [await put(db, 's3://b/upload', '1 hour')]);

  const next = await addWorker(db);
  expect(await value(db, "SELECT alive FROM afterdelete.heartbeat($1, '1 hour')", [next])).toBe(true);
  await db.sql(
    "INSERT INTO afterdelete.pending_file_cleanup (target, lost) VALUES ('fake://store/suspect', 3)",
  );
  expect(await db.sql('SELECT * FROM afterdelete.claim_suspect($1, $2)', [next, [STORE]])).toHaveLength(1);
  await db.sql("SELECT afterdelete.pause($1, 'why')", [STORE]);
  expect(await claim(db, next)).toEqual([]);
  expect(only(await db.sql('SELECT store, paused, served FROM afterdelete.backlog'))).toEqual({
    store: STORE,
    paused: true,
    served: true,
  });
  expect(
    await value(db, "SELECT count(*)::int FROM afterdelete.stuck WHERE reason = 'paused'"),
  ).toBeGreaterThan(0);
  await db.sql('SELECT afterdelete.resume($1)', [STORE]);
  expect(await claim(db, next)).toHaveLength(12);
  expect(await value(db, 'SELECT afterdelete.deregister($1)', [next])).toBe(13);
  expect(only(await db.sql('SELECT * FROM afterdelete.maintain_history()'))).toEqual({ made: 0, dropped: 0 });
  expect(await states(db)).toEqual({ pending: 51, running: 0, done: 43, dead: 8 });
}
