/** A DELETE of many watched rows, against the same DELETE with an INSERT … SELECT by hand in its transaction. */
import type { TestDatabase } from '../../tests/support/database.ts';
import { cpuSeconds } from '../stage.ts';
import { line, median, times } from './report.ts';

const CASES = [
  { template: 'file:///data/t/{id}/', byHand: "'file:///data/t/' || id || '/'" },
  { template: 'file://{+path}', byHand: "'file://' || path" },
] as const;

export async function bulk(db: TestDatabase, { rows = 100_000, rounds = 7 } = {}): Promise<void> {
  const client = await db.connect();
  const [backend] = (await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')).rows;
  const used = () => cpuSeconds(backend?.pid ?? 0) * 1_000;
  for (const { template, byHand } of CASES) {
    await db.sql('CREATE TABLE watched (id int PRIMARY KEY, path text NOT NULL)');
    await db.sql('CREATE TABLE plain (id int PRIMARY KEY, path text NOT NULL)');
    await db.sql("SELECT afterdelete.watch('watched', $1)", [template]);
    const insert = `INSERT INTO afterdelete.pending_file_cleanup (target) SELECT ${byHand} FROM plain`;
    const contestants = {
      watched: ['DELETE FROM watched'],
      'by hand': [insert, 'DELETE FROM plain'],
      unwatched: ['DELETE FROM plain'],
    };
    // On a busy machine these lie less far apart than the times.
    const cpu: Record<keyof typeof contestants, number[]> = { watched: [], 'by hand': [], unwatched: [] };
    const samples = await times(
      Object.keys(contestants) as (keyof typeof contestants)[],
      rounds,
      async name => {
        for (const table of ['watched', 'plain']) {
          await db.sql(`ALTER TABLE ${table} DISABLE TRIGGER USER`);
          await db.sql(`TRUNCATE ${table}`);
          await db.sql(`ALTER TABLE ${table} ENABLE TRIGGER USER`);
        }
        const table = name === 'watched' ? 'watched' : 'plain';
        await db.sql(
          `INSERT INTO ${table} SELECT i, '/data/some/directory/' || i || '.bin' FROM generate_series(1, $1) i`,
          [rows],
        );
        await db.sql('TRUNCATE afterdelete.pending_file_cleanup');
        await db.sql('VACUUM ANALYZE watched, plain');
        await db.sql('CHECKPOINT');
        const usedBefore = used();
        const began = performance.now();
        await client.query('BEGIN');
        for (const statement of contestants[name]) await client.query(statement);
        await client.query('COMMIT');
        const ms = performance.now() - began;
        cpu[name].push(used() - usedBefore);
        const [written] = await db.sql<{ n: number }>(
          'SELECT count(*)::int AS n FROM afterdelete.pending_file_cleanup',
        );
        const expected = name === 'unwatched' ? 0 : rows;
        if (written?.n !== expected)
          throw new Error(`${name}: ${written?.n} cleanups written, expected ${expected}`);
        return ms;
      },
    );
    line({
      what: `DELETE of ${rows.toLocaleString('en')} rows watched as ${template}`,
      result: `${(median(samples.watched) / median(samples['by hand'])).toFixed(2)} × the same with INSERT … SELECT by hand (goal: at most 1.3)`,
      samples,
      unit: 'ms',
    });
    const [watched, byHandCpu] = [median(cpu.watched), median(cpu['by hand'])];
    console.log(
      `  (CPU time of the backend: ${(watched / byHandCpu).toFixed(2)} ×; watched ${watched.toFixed(0)} ms, by hand ${byHandCpu.toFixed(0)} ms)`,
    );
    await db.sql('DROP TABLE watched, plain');
    await db.sql('SELECT afterdelete.unwatch(relation, template) FROM afterdelete.watched');
  }
}
