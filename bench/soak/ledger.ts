/** What was asked for in a soak, written in the same transactions: so the database itself tells what it has to answer for. */
import type { TestDatabase } from '../../tests/support/database.ts';
import { BUCKET, type Deed } from './world.ts';

/** The tables of the soak: its ledger, and those that are watched. */
export async function createTables(db: Pick<TestDatabase, 'sql'>, directory: string): Promise<void> {
  await db.sql(`
    CREATE SCHEMA soak;
    -- Transactions that were committed.
    CREATE TABLE soak.deed (deed bigint PRIMARY KEY);
    -- Cleanups that must come to one of these ends. id: left out where a trigger wrote them.
    CREATE TABLE soak.intent (n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id bigint UNIQUE, target text NOT NULL, ends text[] NOT NULL);
    CREATE INDEX ON soak.intent (target);
    CREATE TABLE soak.training (id bigint PRIMARY KEY);
    CREATE TABLE soak.sample (id bigint PRIMARY KEY);
    CREATE TABLE soak.output (job bigint, id bigint, PRIMARY KEY (job, id));
  `);
  const watched = [
    ['soak.training', `file://${directory}/trainings/{id}/`],
    ['soak.sample', `s3://${BUCKET}/samples/{id}`],
    ['soak.output', `file://${directory}/jobs/{job}/{id}/`],
  ];
  for (const [table, template] of watched)
    await db.sql('SELECT afterdelete.watch($1::text::regclass, $2)', [table, template]);
}

export async function committedDeeds(db: Pick<TestDatabase, 'sql'>): Promise<Set<Deed>> {
  const rows = await db.sql<{ deed: string }>('SELECT deed FROM soak.deed');
  return new Set(rows.map(row => Number(row.deed)));
}

export interface Balance {
  /** Cleanups that were asked for, and what became of them. */
  readonly intents: number;
  readonly ends: Readonly<Record<string, number>>;
  /** What is not as it should be, a line each. */
  readonly wrong: readonly string[];
}

const ENDED = `ended AS (
  SELECT id, target, outcome, note AS told FROM afterdelete.done_file_cleanup
  UNION ALL SELECT id, target, 'dead', last_error FROM afterdelete.dead_file_cleanup
  UNION ALL SELECT id, target, 'pending', last_error FROM afterdelete.pending_file_cleanup
  UNION ALL SELECT id, target, 'running', last_error FROM afterdelete.running_file_cleanup)`;

/** Each cleanup that was asked for has exactly one end, one that is meant for it; and there are no others. */
export async function balance(db: Pick<TestDatabase, 'sql'>): Promise<Balance> {
  const wrong = await db.sql<{ line: string }>(`
    WITH ${ENDED}, asked AS (
      SELECT i.n, i.target, i.ends, e.outcome, e.told FROM soak.intent i LEFT JOIN ended e ON e.id = i.id WHERE i.id IS NOT NULL
      UNION ALL
      SELECT i.n, i.target, i.ends, e.outcome, e.told FROM soak.intent i
        LEFT JOIN (SELECT * FROM ended e WHERE NOT EXISTS (SELECT FROM soak.intent x WHERE x.id = e.id)) e ON e.target = i.target
       WHERE i.id IS NULL)
    SELECT format('%s: should be %s once, is %s %s', target, array_to_string(ends, ' or '),
             coalesce(string_agg(outcome, ' and '), 'nowhere'), string_agg(told, '; ')) AS line
      FROM asked GROUP BY n, target, ends
    HAVING count(outcome) <> 1 OR NOT bool_and(outcome = ANY (ends))
    UNION ALL
    SELECT format('%s: nobody asked for it, and it is %s', e.target, e.outcome) FROM ended e
     WHERE NOT EXISTS (SELECT FROM soak.intent i WHERE i.id = e.id)
       AND NOT EXISTS (SELECT FROM soak.intent i WHERE i.id IS NULL AND i.target = e.target)`);
  const ends = await db.sql<{ outcome: string; n: number }>(
    `WITH ${ENDED} SELECT outcome, count(*)::int AS n FROM ended GROUP BY 1 ORDER BY 2 DESC`,
  );
  const [intents] = await db.sql<{ n: number }>('SELECT count(*)::int AS n FROM soak.intent');
  return {
    intents: intents?.n ?? 0,
    ends: Object.fromEntries(ends.map(({ outcome, n }) => [outcome, n])),
    wrong: wrong.map(row => row.line),
  };
}
