/** Rules that can be broken on purpose, to show that each would be missed. */

/** What the actors of the model do wrong, or, as SQL, the database. */
export interface Breakage {
  readonly actors?:
    | 'sleeps without a second claim'
    | 'asks for the next due row last'
    | 'believes a mark it has not looked below'
    | 'takes a paused store for an empty one'
    | 'never falls back';
  readonly sql?: string;
  /** The rules of which one must be found broken. */
  readonly breaks: readonly string[];
  /** A run that did, of SEED. It does so most times, since rows fall due by the clock. */
  readonly seen: string;
}

/** Changes the text of functions as they stand; raises when there is nothing to change. */
const rewritten = (name: string, from: string, to: string) => `
  DO $$ DECLARE f record; n integer := 0; BEGIN
    FOR f IN SELECT pg_get_functiondef(p.oid) AS text FROM pg_proc p WHERE p.pronamespace = 'afterdelete'::regnamespace AND p.proname ~ '^(${name})$' LOOP
      CONTINUE WHEN f.text !~ '${from}';
      EXECUTE regexp_replace(f.text, '${from}', '${to}', 'g');
      n := n + 1;
    END LOOP;
    IF n = 0 THEN RAISE EXCEPTION 'afterdelete.${name} says nowhere ${from}: adapt tests/support/protocol/breakages.ts'; END IF;
  END $$`;

/** The seed of the runs that breakages name; `npm run bench:protocol -- --broken all` finds others when scripts have changed. */
export const SEED = 1;

export const BREAKAGES: Readonly<Record<string, Breakage>> = {
  'a settle without the number of its claim': {
    sql: rewritten('settle_(done|back|dead)', ' AND r\\.claim = s\\.claim', ''),
    breaks: ['moves'],
    seen: '21',
  },
  'a settle that looks for a row where it stood': {
    sql: rewritten(
      'settle_(done|back|dead)',
      'WHERE r\\.id = ANY \\(ids\\)',
      'WHERE EXISTS (SELECT FROM afterdelete.running_file_cleanup h WHERE h.id = r.id AND h.ctid = r.ctid) AND r.id = ANY (ids)',
    ),
    breaks: ['a settle of what is held settles it'],
    seen: '0',
  },
  'a settle that passes by what is locked': {
    sql: rewritten(
      'settle_(done|back|dead)',
      'WHERE r\\.id = ANY \\(ids\\)',
      'WHERE r.id = ANY (ARRAY(SELECT h.id FROM afterdelete.running_file_cleanup h WHERE h.id = ANY (ids) FOR UPDATE SKIP LOCKED))',
    ),
    breaks: ['a settle of what is held settles it'],
    seen: '1',
  },
  'a settle that does not tell what it did not hold': {
    sql: `
      CREATE OR REPLACE FUNCTION afterdelete.not_among(ids bigint[], done bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE RETURN '{}'::bigint[]`,
    breaks: ['moves'],
    seen: '0',
  },
  'a claim that does not hold its worker': {
    sql: rewritten('claim', 'FOR KEY SHARE', ''),
    breaks: ['a running row has a worker', 'lease'],
    seen: '11',
  },
  'a retry that leaves the dead row where it is': {
    sql: rewritten(
      'retry',
      'DELETE FROM afterdelete\\.dead_file_cleanup d WHERE d\\.id = retry\\.id RETURNING d\\.\\*',
      'SELECT d.* FROM afterdelete.dead_file_cleanup d WHERE d.id = retry.id',
    ),
    breaks: ['one place'],
    seen: '2',
  },
  'a reaper that is one statement': {
    sql: `
      CREATE OR REPLACE FUNCTION afterdelete.reap(OUT workers integer, OUT moved integer, OUT died integer) LANGUAGE sql AS $$
        WITH ended AS (
          DELETE FROM afterdelete.worker
           WHERE id IN (SELECT w.id FROM afterdelete.worker w WHERE w.lease_until < clock_timestamp() FOR UPDATE SKIP LOCKED)
          RETURNING id
        ), taken AS (
          DELETE FROM afterdelete.running_file_cleanup r USING ended e WHERE r.worker = e.id RETURNING r.*
        ), back AS (
          INSERT INTO afterdelete.pending_file_cleanup (id, target, run_at, created_at, first_due_at, attempt, lost, put_back, last_error, objects_deleted)
          SELECT t.id, t.target, clock_timestamp(), t.created_at, t.first_due_at, t.attempt, t.lost + 1, 'lost', 'lost', t.objects_deleted FROM taken t
          RETURNING 1
        )
        SELECT (SELECT count(*) FROM ended)::integer, (SELECT count(*) FROM back)::integer, 0
      $$`,
    breaks: ['a running row has a worker'],
    seen: '87',
  },
  'a reaper that takes workers whose lease runs': {
    sql: rewritten('reap', 'afterdelete\\.lease_end\\(w\\) < clock_timestamp\\(\\)', 'true'),
    breaks: ['lease'],
    seen: '0',
  },
  'a floor that rises before older transactions have ended': {
    sql: rewritten('mark', 'pg_snapshot_xmin', 'pg_snapshot_xmax'),
    breaks: ['nothing below the floor'],
    seen: '11',
  },
  'a time that is taken before the transaction has its id': {
    sql: 'ALTER TABLE afterdelete.pending_file_cleanup ALTER created_at SET DEFAULT clock_timestamp()',
    breaks: ['nothing below the floor'],
    seen: '11',
  },
  'a floor that is believed before anybody has looked below': {
    actors: 'believes a mark it has not looked below',
    breaks: ['nothing below the floor'],
    seen: '38',
  },
  'a paused store that is taken for an empty one': {
    actors: 'takes a paused store for an empty one',
    breaks: ['nothing below the floor'],
    seen: '7',
  },
  'floors that never fall back': {
    actors: 'never falls back',
    breaks: ['nothing below the floor'],
    seen: '19',
  },
  'no claim between arming and sleeping': {
    actors: 'sleeps without a second claim',
    breaks: ['no wake-up is lost'],
    seen: '12',
  },
  'asking for the next due row after the last claim': {
    actors: 'asks for the next due row last',
    breaks: ['no wake-up is lost'],
    seen: '20',
  },
  'writers that look for sleepers and take no key': {
    sql: `
      CREATE OR REPLACE FUNCTION afterdelete.wake() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        IF EXISTS (SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.mode = 'ExclusiveLock' AND l.classid = 1634104420
                      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())) THEN
          PERFORM pg_notify('afterdelete', '');
        END IF;
        RETURN NULL;
      END $$`,
    breaks: ['no wake-up is lost'],
    seen: '170',
  },
  'a reaper that wakes nobody': {
    sql: rewritten('reap', 'BEGIN', "BEGIN PERFORM set_config(''afterdelete.quiet'', ''on'', true);"),
    breaks: ['no wake-up is lost'],
    seen: '36',
  },
};
