/** What a watch adds to a transaction that deletes one row. */
import type { TestDatabase } from '../../tests/support/database.ts';
import { line, median } from './report.ts';

export async function single(db: TestDatabase, { deletes = 5_000 } = {}): Promise<void> {
  const client = await db.connect();
  await db.sql('CREATE TABLE watched (id int PRIMARY KEY, path text NOT NULL)');
  await db.sql('CREATE TABLE plain (id int PRIMARY KEY, path text NOT NULL)');
  await db.sql("SELECT afterdelete.watch('watched', 'file:///data/t/{id}/')");
  for (const commit of ['on', 'off']) {
    await client.query(`SET synchronous_commit = ${commit}`);
    const warmUp = 200;
    for (const table of ['watched', 'plain'])
      await db.sql(`INSERT INTO ${table} SELECT i, '/data/' || i FROM generate_series(1, $1) i`, [
        deletes + warmUp,
      ]);
    await db.sql('TRUNCATE afterdelete.pending_file_cleanup');
    await db.sql('VACUUM ANALYZE watched, plain');
    await db.sql('CHECKPOINT');
    const samples: Record<'watched' | 'unwatched', number[]> = { watched: [], unwatched: [] };
    for (let i = 1; i <= deletes + warmUp; i++) {
      // Which of the two comes first changes, so that neither always pays for the other.
      for (const name of i % 2 === 0
        ? (['watched', 'unwatched'] as const)
        : (['unwatched', 'watched'] as const)) {
        const began = performance.now();
        await client.query(`DELETE FROM ${name === 'watched' ? 'watched' : 'plain'} WHERE id = $1`, [i]);
        const ms = performance.now() - began;
        if (i > warmUp) samples[name].push(ms);
      }
    }
    line({
      what: `DELETE of one row with its COMMIT${commit === 'on' ? '' : ', synchronous_commit off'}`,
      result: `a watch adds ${(median(samples.watched) - median(samples.unwatched)).toFixed(3)} ms${commit === 'on' ? ' (goal: at most 0.1)' : ''}`,
      samples,
      unit: 'ms',
      digits: 3,
    });
  }
  await db.sql('DROP TABLE watched, plain');
  await db.sql('SELECT afterdelete.unwatch(relation, template) FROM afterdelete.watched');
}
