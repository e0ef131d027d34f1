/** How many targets a second the guard answers for, asked as daemons ask it: a thousand files at a time, or one tree. */
import type { TestDatabase } from '../../tests/support/database.ts';
import { line, median } from './report.ts';

/** A collation that does not order by bytes, as most databases have it: an ordinary index finds no beginnings in it. */
const LINGUISTIC = 'COLLATE "und-x-icu"';

const CASES = [
  {
    template: 'file:///data/t/{id}.bin',
    index: 'its primary key',
    target: "'file:///data/t/' || i || '.bin'",
  },
  {
    template: 'file:///data/{folder}/{id}.bin',
    index: 'its primary key',
    target: "'file:///data/d' || i % 100 || '/' || i || '.bin'",
  },
  {
    template: 'file:///data/t/{id}/',
    index: 'its primary key',
    target: "'file:///data/t/' || i || '/'",
    batch: 1,
  },
  {
    template: 'file://{+path}',
    index: 'an index with text_pattern_ops',
    create: 'CREATE INDEX ON live (path text_pattern_ops)',
    target: "'file:///data/d' || i % 100 || '/' || i || '.bin'",
  },
  {
    template: 'file://{+path}',
    index: 'an ordinary index',
    create: 'CREATE INDEX ON live (path)',
    target: "'file:///data/d' || i % 100 || '/' || i || '.bin'",
  },
];

export async function guard(db: TestDatabase, { rows = 100_000, batches = 50 } = {}): Promise<void> {
  const client = await db.connect();
  for (const { template, index, create, target, batch = 1_000 } of CASES) {
    await db.sql(
      `CREATE TABLE live (id int PRIMARY KEY, folder text NOT NULL, path text ${LINGUISTIC} NOT NULL)`,
    );
    await db.sql(
      `INSERT INTO live SELECT i, 'd' || i % 100, '/data/d' || i % 100 || '/' || i || '.bin' FROM generate_series(1, $1) i`,
      [rows],
    );
    if (create !== undefined) await db.sql(create);
    await db.sql('VACUUM ANALYZE live');
    await db.sql("SELECT afterdelete.watch('live', $1)", [template]);
    const samples: number[] = [];
    for (let round = -2; round < batches; round++) {
      // Half of them are held.
      const [asked] = await db.sql<{ targets: string[] }>(
        `SELECT array_agg(${target}) AS targets FROM (SELECT (random() * 2 * $1)::int AS i FROM generate_series(1, $2)) n`,
        [rows, batch],
      );
      const began = performance.now();
      const { rows: verdicts } = await client.query(
        'SELECT n, verdict, reason FROM afterdelete.verdicts($1)',
        [asked?.targets],
      );
      const ms = performance.now() - began;
      if (batch > 1 && Math.abs(verdicts.length - batch / 2) > batch / 4)
        throw new Error(`${verdicts.length} of ${batch} are held, expected about half`);
      if (round >= 0) samples.push(ms);
    }
    line({
      what: `the guard, asked about ${batch === 1 ? 'one tree' : `${batch.toLocaleString('en')} files`} of ${template} at a time, ${rows.toLocaleString('en')} live rows, ${index}`,
      result: `${Math.round((batch / median(samples)) * 1_000).toLocaleString('en')} targets a second`,
      samples: { batch: samples },
      unit: 'ms',
      digits: 1,
    });
    await db.sql('DROP TABLE live');
    await db.sql('SELECT afterdelete.unwatch(relation, template) FROM afterdelete.watched');
  }
}
