/** What a watch adds to a transaction that deletes one row; and, for comparison, what an INSERT by hand adds to it. */
import type { TestDatabase } from '../../tests/support/database.ts';
import { line, median } from './report.ts';

/** Each is one transaction and one round trip. */
const CONTESTANTS = {
  watched: (id: number) => `DELETE FROM watched WHERE id = ${id}`,
  unwatched: (id: number) => `DELETE FROM plain WHERE id = ${id}`,
  'by hand': (id: number) =>
    `INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ('file:///data/t/${id}/'); DELETE FROM by_hand WHERE id = ${id}`,
};
const NAMES = Object.keys(CONTESTANTS) as (keyof typeof CONTESTANTS)[];
const TABLES = ['watched', 'plain', 'by_hand'];
const WARM_UP = 200;

export async function single(db: TestDatabase, { deletes = 5_000 } = {}): Promise<void> {
  const client = await db.connect();
  for (const table of TABLES) await db.sql(`CREATE TABLE ${table} (id int PRIMARY KEY, path text NOT NULL)`);
  await db.sql("SELECT afterdelete.watch('watched', 'file:///data/t/{id}/')");
  for (const commit of ['on', 'off']) {
    await client.query(`SET synchronous_commit = ${commit}`);
    for (const table of TABLES)
      await db.sql(`INSERT INTO ${table} SELECT i, '/data/' || i FROM generate_series(1, $1) i`, [
        deletes + WARM_UP,
      ]);
    await db.sql('TRUNCATE afterdelete.pending_file_cleanup');
    await db.sql(`VACUUM ANALYZE ${TABLES.join(', ')}`);
    await db.sql('CHECKPOINT');
    const samples: Record<keyof typeof CONTESTANTS, number[]> = { watched: [], unwatched: [], 'by hand': [] };
    for (let id = 1; id <= deletes + WARM_UP; id++) {
      // Another one comes first each time, so that none always pays for the one before it.
      for (let i = 0; i < NAMES.length; i++) {
        const name = NAMES[(id + i) % NAMES.length] as keyof typeof CONTESTANTS;
        const began = performance.now();
        await client.query(CONTESTANTS[name](id));
        const ms = performance.now() - began;
        if (id > WARM_UP) samples[name].push(ms);
      }
    }
    const adds = (name: keyof typeof CONTESTANTS) =>
      (median(samples[name]) - median(samples.unwatched)).toFixed(3);
    line({
      what: `DELETE of one row with its COMMIT${commit === 'on' ? '' : ', synchronous_commit off'}`,
      result: `a watch adds ${adds('watched')} ms${commit === 'on' ? ' (goal: at most 0.1)' : ''}, an INSERT by hand ${adds('by hand')} ms`,
      samples,
      unit: 'ms',
      digits: 3,
    });
  }
  await db.sql(`DROP TABLE ${TABLES.join(', ')}`);
  await db.sql('SELECT afterdelete.unwatch(relation, template) FROM afterdelete.watched');
}
