/** What all contestants find before they begin. */
import type { Db } from './contestant.ts';
import { CONTESTANTS, type Name } from './index.ts';

/** Rows of the watched table. None of them holds what is deleted: their numbers begin behind all jobs'. */
const LIVE = 100_000;
const FIRST_LIVE = 1_000_000_000;

/**
 * Makes a table of live rows and watches it, so that each batch is looked up in it. `template` has a place for {id}, and may
 * have one for {folder}.
 */
export async function watchLive(db: Db, template: string): Promise<void> {
  await db.sql('CREATE TABLE live (id bigint PRIMARY KEY, folder integer NOT NULL)');
  await db.sql(`INSERT INTO live SELECT ${FIRST_LIVE} + i, i % 50 FROM generate_series(1, ${LIVE}) i`);
  await db.sql('SELECT afterdelete.watch($1, $2)', ['live', template]);
  await db.sql('VACUUM ANALYZE live');
}

export async function install(db: Db, names: Iterable<Name>): Promise<void> {
  for (const name of new Set(names)) await CONTESTANTS[name].install(db);
}

/** Vacuumed, analysed, and on disk: what a contestant pays for is its own. */
export async function settleDown(db: Db, name: Name): Promise<void> {
  await db.sql(`VACUUM ANALYZE ${CONTESTANTS[name].table}`);
  await db.sql('CHECKPOINT');
}
