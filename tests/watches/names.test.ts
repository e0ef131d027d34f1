/** Names that could be taken for something else, and settings of the application's session that could be in the way. */
import { expect, it } from 'vitest';
import { onEveryMajor } from './world.ts';

const LONG = 'x'.repeat(62);
const COLUMNS = [
  'it\'s "quoted"',
  'two words',
  '100%s',
  'Path',
  '$1',
  '$$',
  '\\',
  "back\\slash E'",
  'line\nbreak',
  '--comment',
  '/*comment*/',
  ';',
  '%I',
  'OLD.x',
  'NEW.x',
  '日本語',
  LONG,
  't',
  'e',
  'd',
  'c',
  'w',
  'a',
  'target',
  'gone',
  'stay',
  'ended',
  'buried',
  'faulty',
  'bad',
  'held',
  'n',
  'key',
  'v',
  'form',
  'value of x',
  'old',
  'new',
  'tg_op',
  'TG_OP',
  'tg_relid',
  'found',
  'why',
  'keys',
  'sqlerrm',
  'sqlstate',
  'id',
  'relation',
  'watch',
  'true',
  'null',
  'NULL',
  'select',
  'user',
  'current_user',
  'text',
  'left',
  'afterdelete',
  'pg_catalog',
];
const groupsOf = <T>(size: number, all: readonly T[]): T[][] =>
  all.length === 0 ? [] : [all.slice(0, size), ...groupsOf(size, all.slice(size))];
const quoted = (name: string) => `"${name.replaceAll('"', '""')}"`;

onEveryMajor('a column', world => {
  /** Captures every way in which a hold of columns of these names ends, by statement and row by row. */
  const captures = async (names: readonly string[]) => {
    const columns = names.map(quoted);
    const values = (value: string) => columns.map(() => `'${value}'`).join(', ');
    const targets = (...held: string[]) =>
      held.map(value => `file:///data${names.map(() => `/${value}`).join('')}`);
    const condition = columns.map(column => `length(${column}) < 5`).join(' AND ');
    for (const partitions of ['', 'PARTITION BY LIST (ok)']) {
      await world.sql(
        `CREATE TABLE files (${columns.map(column => `${column} text`).join(', ')}, "the key" int, ok bool NOT NULL DEFAULT true) ${partitions}`,
      );
      if (partitions !== '') await world.sql('CREATE TABLE files_1 PARTITION OF files DEFAULT');
      await world.watch('files', `file:///data${names.map(name => `/{${name}}`).join('')}`, { condition });
      await world.sql(
        `INSERT INTO files VALUES (${values('a')}, 1), (${values('b')}, 2), (${values('c')}, 3), (${values('')}, 4)`,
      );
      await world.sql(
        `UPDATE files SET ${columns.map(column => `${column} = 'new'`).join(', ')} WHERE "the key" = 1`,
      );
      expect(await world.taken()).toEqual(targets('a'));
      await world.sql('DELETE FROM files WHERE "the key" = 2');
      expect(await world.taken()).toEqual(targets('b'));
      expect(await world.verdict(targets('c')[0] as string)).toBe('kept');
      expect(await world.dead()).toEqual([]);
      await world.sql('TRUNCATE files');
      expect(await world.taken()).toEqual(targets('c', 'new'));
      const [dead] = await world.dead();
      for (const name of names) expect(dead?.last_error).toContain(`{${name}} is empty`);
      await world.sql('DROP TABLE files; SELECT afterdelete.unwatch(relation) FROM afterdelete.watched');
      await world.as('postgres').sql('DELETE FROM afterdelete.dead_file_cleanup');
    }
  };

  it.each(groupsOf(8, COLUMNS).map(group => [group]))('of the names %j', captures);

  it.each(['t', 'the key'])('%j is the key that a dead row names', async name => {
    await world.sql(
      `CREATE TABLE files (${quoted(name)} int PRIMARY KEY, path text, n int); INSERT INTO files VALUES (7, 'a', 0)`,
    );
    await world.watch('files', 'file:///data/{path}', { condition: '1 / n > 0' });
    await world.sql('DELETE FROM files');
    expect((await world.dead())[0]?.last_error).toContain(`Rows: {"${name}": 7}`);
  });

  it('whose long name differs from another one at its end only', async () => {
    const [one, two] = [`${LONG}1`, `${LONG}2`];
    await world.sql(`CREATE TABLE files (${one} text, ${two} text); INSERT INTO files VALUES ('a', 'b')`);
    await world.watch('files', `file:///data/{${one}}/{${two}}`);
    const session = await world.connect();
    const notices: unknown[] = [];
    session.on('notice', notice => notices.push(notice.message));
    await session.query(`UPDATE files SET ${one} = 'x'`);
    await session.query('DELETE FROM files');
    expect(await world.written()).toEqual(['file:///data/a/b', 'file:///data/x/b']);
    expect(notices).toEqual([]);
  });
});

onEveryMajor('a table', world => {
  it.each([
    'it\'s "quoted"',
    'Two Words',
    '100%',
    't',
    'gone',
    'stay',
    'watched',
    'pending_file_cleanup',
    'select',
    'line\nbreak',
    'OLD.x',
  ])('%j, in a schema of that name', async name => {
    const table = `${quoted(name)}.${quoted(name)}`;
    await world.as('postgres').sql(`CREATE SCHEMA ${quoted(name)} AUTHORIZATION keeper`);
    await world.sql(
      `CREATE TABLE ${table} (id int PRIMARY KEY, path text); INSERT INTO ${table} VALUES (1, 'a'), (2, 'b'), (3, '')`,
    );
    await world.watch(table, 'file:///data/{path}');
    await world.watch(table, 'file:///data/{id}', { condition: '1 / id < 5' });
    await world.sql(
      `UPDATE ${table} SET path = 'new' WHERE id = 1; DELETE FROM ${table} WHERE id = 2; TRUNCATE ${table}`,
    );
    expect(await world.written()).toEqual(['1', '2', '3', 'a', 'b', 'new'].map(v => `file:///data/${v}`));
    expect(await world.dead()).toHaveLength(1);
    expect(await world.sql('SELECT * FROM afterdelete.watch_problems() WHERE broken')).toEqual([]);
    expect(await world.sql('SELECT afterdelete.unwatch($1)', [table])).toEqual([{ unwatch: 2 }]);
  });
});

onEveryMajor('a session with', world => {
  it.each([
    "search_path = ''",
    'search_path = pg_temp',
    'quote_all_identifiers = on; SET standard_conforming_strings = off; SET transform_null_equals = on; SET array_nulls = off',
    "plpgsql.extra_errors = 'all'; SET plpgsql.extra_warnings = 'all'; SET plpgsql.variable_conflict = error",
    "DateStyle = 'SQL, DMY'; SET IntervalStyle = 'iso_8601'; SET TimeZone = 'Pacific/Apia'; SET client_encoding = LATIN1",
    "plan_cache_mode = force_generic_plan; SET work_mem = '64kB'; SET enable_seqscan = off; SET jit_above_cost = 0",
    'row_security = off; SET default_transaction_isolation = serializable',
    "afterdelete.actor = 'it''s me'",
  ])('%s is captured', async setting => {
    await world.sql(
      `CREATE TYPE mood AS ENUM ('happy', 'sad');
       CREATE TABLE files (id int PRIMARY KEY, path text, mood mood, at timestamptz, n numeric, note varchar);
       INSERT INTO files VALUES (1, 'a', 'happy', '2024-02-03', 1.5, 'x'), (2, 'b', 'sad', '2024-02-03', 2, 'x\\y'), (3, '', 'sad', '2024-02-03', 1, NULL)`,
    );
    await world.watch('files', 'file:///data/{path}/{id}/{n}', {
      condition: "at < '2024-02-04'::timestamptz AND note !~ '^\\d' AND mood IN ('happy', 'sad')",
      delay: '1 day 2 hours',
    });
    await world.watch('files', 'file:///mood/{mood}', { condition: 'note IS NULL OR true' });
    const session = await world.connect();
    await session.query(`SET ${setting}`);
    await session.query("UPDATE app.files SET path = 'new' WHERE id = 1");
    await session.query('DELETE FROM app.files');
    expect(await world.written()).toEqual([
      'file:///data/a/1/1.5',
      'file:///data/b/2/2',
      'file:///data/new/1/1.5',
      'file:///mood/happy',
      'file:///mood/sad',
      'file:///mood/sad',
    ]);
    expect(await world.dead()).toEqual([]);
    expect(
      await world.sql(
        "SELECT DISTINCT run_at - created_at BETWEEN interval '1 day 1 hour' AND interval '1 day 2 hours' AS later, actor FROM afterdelete.pending_file_cleanup WHERE target LIKE '%/data/%'",
      ),
    ).toEqual([{ later: true, actor: setting.startsWith('afterdelete') ? "it's me" : 'keeper' }]);
    await session.query(
      "INSERT INTO app.files VALUES (4, '', 'sad', '2024-02-03', 1, 'x'), (5, 'c', 'sad', '2024-02-03', 1, 'x')",
    );
    await world.taken();
    await session.query('TRUNCATE app.files');
    expect(await world.written()).toEqual(['file:///data/c/5/1', 'file:///mood/sad', 'file:///mood/sad']);
    expect((await world.dead())[0]?.last_error).toContain('{path} is empty');
  });
});

onEveryMajor('a declaration in a session with', world => {
  it.each([
    "DateStyle = 'SQL, DMY'; SET IntervalStyle = 'sql_standard'; SET extra_float_digits = -10",
    "DateStyle = 'German'; SET IntervalStyle = 'iso_8601'; SET TimeZone = 'Pacific/Apia'; SET bytea_output = 'escape'",
    'quote_all_identifiers = on; SET standard_conforming_strings = off',
    "plpgsql.extra_errors = 'all'; SET search_path = ''",
  ])('%s means the same in every other session', async setting => {
    await world.sql(
      `CREATE TABLE files (id int PRIMARY KEY, path text, at timestamp, long interval, score float8);
       INSERT INTO files VALUES (1, 'a', '2024-02-03', '1 day 02:00:00', 0.12345678901234567), (2, 'b', '2024-02-03 01:00', '1 day 03:00:00', 0.2)`,
    );
    const session = await world.connect();
    await session.query(`SET ${setting}`);
    // In the session's own style 03/02/2024 is the third of February where it says DMY.
    const day = setting.includes('DMY') ? '03/02/2024' : '2024-02-03';
    await session.query(
      "SELECT afterdelete.watch('app.files', 'file:///data/{path}', condition => $1, delay => '1 day 02:00:00')",
      [
        `at = '${day}'::timestamp AND long = '1 day 2 hours'::interval AND score = '0.12345678901234567'::float8`,
      ],
    );
    await session.end();
    await world.sql('DELETE FROM files');
    expect(await world.written()).toEqual(['file:///data/a']);
    expect(
      await world.sql(
        "SELECT run_at - created_at BETWEEN interval '25 hours' AND interval '26 hours' AS later FROM afterdelete.pending_file_cleanup",
      ),
    ).toEqual([{ later: true }]);
    expect(await world.dead()).toEqual([]);
  });
});
