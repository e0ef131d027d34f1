/** Conditions: what they may say, what is refused when they are declared, and what happens when they raise. */
import { beforeEach, expect, it } from 'vitest';
import { onEveryMajor } from './world.ts';

onEveryMajor('a condition', world => {
  beforeEach(async () => {
    await world.sql(
      `CREATE TABLE files (id int PRIMARY KEY, path text, state text, deleted_at timestamptz, size bigint, tags text[], meta jsonb, live bool DEFAULT true);
       INSERT INTO files VALUES (1, 'a', 'active', NULL, 5, '{x}', '{"k": {"l": 1}}'), (2, 'b', 'it''s "gone"', now(), NULL, '{}', '{}'),
                                (3, 'c', E'two\\nlines', NULL, 0, NULL, NULL)`,
    );
  });

  it.each([
    ['deleted_at IS NULL', ['a', 'c']],
    ['not (deleted_at IS NOT NULL)', ['a', 'c']],
    ["state LIKE 'a%'", ['a']],
    ["state LIKE '%it''s \"g%'", ['b']],
    ["state = 'it''s \"gone\"'", ['b']],
    ["state = E'two\\nlines'", ['c']],
    ["state = 'two\nlines'", ['c']],
    ["state ~ '^[a-c]\\w+$'", ['a']],
    ["state IN ('active', 'x') OR state IS NULL", ['a']],
    ["state NOT IN ('active')", ['b', 'c']],
    ["state <> ALL ('{active}'::text[])", ['b', 'c']],
    ["CASE WHEN state = 'active' THEN live ELSE false END", ['a']],
    ['size > 0', ['a']],
    ['coalesce(size, 0) = 0', ['b', 'c']],
    ['size IS DISTINCT FROM 5', ['b', 'c']],
    ['10 / nullif(size, 0) = 2', ['a']],
    ["tags @> '{x}'", ['a']],
    ["(meta -> 'k' ->> 'l')::int = 1", ['a']],
    ["meta @? '$.k.l'", ['a']],
    ['live', ['a', 'b', 'c']],
    ['live IS TRUE', ['a', 'b', 'c']],
    ['ROW(id, size) = ROW(1, 5)', ['a']],
    ["length(path) = 1 AND md5(path) = md5('b')", ['b']],
    ['upper(path) COLLATE "C" >= \'B\'', ['b', 'c']],
    ["deleted_at < '2000-01-01 00:00+00'::timestamptz OR deleted_at IS NULL", ['a', 'c']],
    ['id > 1 -- those that came first have no files', ['b', 'c']],
    ['id > 1 /* %s %I $1 */', ['b', 'c']],
    ['true', ['a', 'b', 'c']],
    [' TRUE ', ['a', 'b', 'c']],
    ['(true)', ['a', 'b', 'c']],
    ['live OR true', ['a', 'b', 'c']],
  ])('%s', async (condition, held) => {
    await world.watch('files', 'file:///data/{path}', { condition });
    for (const target of ['a', 'b', 'c']) {
      expect([target, await world.verdict(`file:///data/${target}`)]).toEqual([
        target,
        held.includes(target) ? 'kept' : 'free',
      ]);
    }
    await world.sql('CREATE TABLE copy AS TABLE files; TRUNCATE files');
    expect(await world.taken()).toEqual(held.map(name => `file:///data/${name}`));
    await world.sql('INSERT INTO files TABLE copy; DELETE FROM files');
    expect(await world.written()).toEqual(held.map(name => `file:///data/${name}`));
    expect(await world.dead()).toEqual([]);
  });

  it.each([
    ['', 'the condition is empty'],
    ['  ', 'the condition is empty'],
    ['nonsense', 'column "nonsense" does not exist'],
    ['path', 'argument of WHERE must be type boolean, not type text'],
    ['path =', 'syntax error'],
    ['true); DROP TABLE app.files; --', 'syntax error'],
    ['1 = 1', 'names no column'],
    ["now() > '2000-01-01'", 'functions in index predicate must be marked IMMUTABLE'],
    ["deleted_at > now() - interval '1 day'", 'functions in index predicate must be marked IMMUTABLE'],
    ["deleted_at::date = '2024-01-01'", 'functions in index predicate must be marked IMMUTABLE'],
    ["deleted_at = '2024-01-01'::text::timestamptz", 'functions in index predicate must be marked IMMUTABLE'],
    ['random() < 0.5 AND live', 'functions in index predicate must be marked IMMUTABLE'],
    ["current_user = 'x'", 'functions in index predicate must be marked IMMUTABLE'],
    ["current_setting('a.b') = path", 'functions in index predicate must be marked IMMUTABLE'],
    ['deleted_at < current_timestamp', 'functions in index predicate must be marked IMMUTABLE'],
    ['id IN (SELECT id FROM app.other)', 'cannot use subquery in index predicate'],
    ['EXISTS (SELECT)', 'cannot use subquery in index predicate'],
    ['other.id = 1', 'missing FROM-clause entry for table "other"'],
    ['max(id) > 1', 'aggregate functions are not allowed in index predicates'],
    ['row_number() OVER () > 1', 'window functions are not allowed in index predicates'],
    ['generate_series(1, id) > 0', 'set-returning functions are not allowed in index predicates'],
    ['ctid IS NOT NULL AND live', 'index creation on system columns is not supported'],
    ["tableoid = 'app.files'::regclass AND live", 'index creation on system columns is not supported'],
    ['condition_of_a_watch IS NOT NULL AND live', ''],
    ['$1', 'there is no parameter $1'],
    ['OLD.id = 1', 'missing FROM-clause entry for table "old"'],
    ['files.id = 1', 'missing FROM-clause entry for table "files"'],
  ])('%j is refused: %s', async (condition, why) => {
    await world.sql('CREATE TABLE other (id int)');
    await expect(world.watch('files', 'file:///data/{path}', { condition })).rejects.toMatchObject({
      code: '22023',
      message: expect.stringMatching(
        new RegExp(`nothing is watched: [^]*${why.replaceAll(/[()$]/g, '\\$&')}`),
      ),
    });
    expect(await world.sql('SELECT FROM afterdelete.watched')).toEqual([]);
    expect(await world.sql("SELECT to_regclass('afterdelete.condition_of_a_watch') AS left_over")).toEqual([
      { left_over: null },
    ]);
  });

  it('that is NULL is refused', async () => {
    await expect(
      world.sql("SELECT afterdelete.watch('app.files', 'file:///data/{path}', NULL)"),
    ).rejects.toThrow('the condition is empty');
  });

  it('may call an immutable function of the schema owner', async () => {
    await world.sql("CREATE FUNCTION fine(text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT $1 = ''a'''");
    await world.watch('files', 'file:///data/{path}', { condition: 'app.fine(path)' });
    await world.sql('DELETE FROM files');
    expect(await world.written()).toEqual(['file:///data/a']);
  });

  it('that calls a function, an operator or a domain of somebody else is refused: it would run as the schema owner', async () => {
    await world.sql('GRANT CREATE ON SCHEMA app TO stranger');
    await world.as('stranger').sql(
      `CREATE FUNCTION app.evil(text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN true; END';
       CREATE FUNCTION app.evil(text, text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
       CREATE OPERATOR app.@@@ (LEFTARG = text, RIGHTARG = text, FUNCTION = app.evil)`,
    );
    await world.as('stranger').sql('CREATE DOMAIN app.checked AS text CHECK (app.evil(VALUE))');
    for (const condition of [
      'app.evil(path)',
      'path OPERATOR(app.@@@) path',
      '(path::app.checked) IS NOT NULL',
    ]) {
      await expect(world.watch('files', 'file:///data/{path}', { condition })).rejects.toMatchObject({
        code: '22023',
        message: expect.stringMatching(/belongs to stranger, who could run anything as keeper through it/),
      });
    }
  });

  it('may name columns of types and collations that a plain comparison knows', async () => {
    await world.sql(
      `CREATE TYPE mood AS ENUM ('happy', 'sad');
       ALTER TABLE files ADD mood mood DEFAULT 'happy', ADD token uuid DEFAULT gen_random_uuid(), ADD day date DEFAULT '2024-05-06', ADD place point DEFAULT '(1,2)'`,
    );
    await world.watch('files', 'file:///data/{path}', {
      condition:
        "mood = 'happy' AND day = '2024-05-06' AND token IS NOT NULL AND place <@ box '(0,0),(5,5)' AND path COLLATE \"POSIX\" < 'c'",
    });
    await world.sql(
      "UPDATE files SET mood = 'sad' WHERE id = 1; UPDATE files SET day = '2024-05-07', place = '(9,9)' WHERE id = 2",
    );
    expect(await world.written()).toEqual(['file:///data/a', 'file:///data/b']);
  });
});

onEveryMajor('a condition that raises', world => {
  beforeEach(async () => {
    await world.sql(
      "CREATE TABLE files (id int PRIMARY KEY, path text, n int, note text); INSERT INTO files VALUES (1, 'a', 1, '1'), (2, 'b', 0, 'x'), (3, 'c', 1, '2')",
    );
  });

  const cases: [string, string][] = [
    ['10 / n > 0', 'division by zero'],
    ['note::int > 0', 'invalid input syntax for type integer: "x"'],
    ["substr(note, 1, id - 3) <> 'z'", 'negative substring length not allowed'],
  ];
  it.each(cases)('%s: DELETE succeeds, and one dead row explains itself', async (condition, why) => {
    await world.watch('files', 'file:///data/{path}', { condition });
    await world.sql('DELETE FROM files');
    expect(await world.sql('SELECT FROM files')).toEqual([]);
    expect(await world.written()).toEqual([]);
    const dead = await world.dead();
    expect(dead).toEqual([
      {
        target: 'file:///data/{path}',
        source: 'DELETE on app.files',
        actor: 'keeper',
        final: true,
        last_error: expect.stringContaining(`because ${why}`),
      },
    ]);
    expect(dead[0]?.last_error).toContain('Rows: {"id": 1}, {"id": 2}, {"id": 3}');
  });

  it.each(cases)('%s: UPDATE and TRUNCATE succeed', async (condition, why) => {
    await world.watch('files', 'file:///data/{path}', { condition });
    await world.sql("UPDATE files SET path = 'new' WHERE id = 2");
    expect((await world.dead()).map(row => row.last_error)).toEqual([expect.stringContaining(why)]);
    await world.sql('TRUNCATE files');
    expect(await world.sql('SELECT FROM files')).toEqual([]);
    expect(await world.written()).toEqual([]);
    expect((await world.dead()).map(row => row.source)).toEqual([
      'UPDATE on app.files',
      'TRUNCATE on app.files',
    ]);
  });

  it('with a long message makes a dead row of a length that can be read', async () => {
    await world.watch('files', 'file:///data/{path}', { condition: 'note::int > 0' });
    await world.sql("UPDATE files SET note = repeat('x', 1000000)");
    await world.as('postgres').sql('DELETE FROM afterdelete.dead_file_cleanup');
    await world.sql('DELETE FROM files');
    expect((await world.dead())[0]?.last_error.length).toBeLessThan(5000);
  });

  it('for none of the rows that a statement touches is no trouble', async () => {
    await world.watch('files', 'file:///data/{path}', { condition: '10 / n > 0' });
    await world.sql('DELETE FROM files WHERE n = 1');
    expect(await world.written()).toEqual(['file:///data/a', 'file:///data/c']);
    expect(await world.dead()).toEqual([]);
  });

  it('on a partitioned table buries the rows it raises for, and captures the others', async () => {
    await world.sql(
      'CREATE TABLE parts (LIKE files) PARTITION BY LIST (id); CREATE TABLE parts_d PARTITION OF parts DEFAULT; INSERT INTO parts SELECT * FROM files',
    );
    await world.watch('parts', 'file:///data/{path}', { condition: '10 / n > 0' });
    await world.sql('DELETE FROM parts');
    expect(await world.written()).toEqual(['file:///data/a', 'file:///data/c']);
    expect(await world.dead()).toHaveLength(1);
  });

  it('leaves the rest of the transaction as it is', async () => {
    await world.watch('files', 'file:///data/{path}', { condition: '10 / n > 0' });
    await world.watch('files', 'file:///other/{id}');
    await world.sql(
      "BEGIN; DELETE FROM files WHERE id = 1; DELETE FROM files; INSERT INTO files VALUES (9, 'z', 1, ''); COMMIT",
    );
    expect(await world.written()).toEqual([
      'file:///data/a',
      'file:///other/1',
      'file:///other/2',
      'file:///other/3',
    ]);
    expect(await world.sql('SELECT id FROM files')).toEqual([{ id: 9 }]);
    expect(await world.dead()).toHaveLength(1);
  });

  it('names at most 20 rows, and how many more there are', async () => {
    await world.watch('files', 'file:///data/{path}', { condition: '10 / n > 0' });
    await world.sql(
      "INSERT INTO files SELECT i, 'p', 0, '' FROM generate_series(10, 109) i; DELETE FROM files WHERE n = 0",
    );
    const [dead] = await world.dead();
    expect(dead?.last_error).toMatch(/\{"id": \d+\} and 81 more$/);
  });

  it('by a function that is replaced by one that raises, or is dropped, or renamed', async () => {
    await world.sql("CREATE FUNCTION fine(int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true'");
    await world.watch('files', 'file:///data/{path}', { condition: 'app.fine(id)' });
    const session = await world.connect();
    await session.query('DELETE FROM files WHERE id = 1');
    expect(await world.taken()).toEqual(['file:///data/a']);
    await world.sql(
      "CREATE OR REPLACE FUNCTION fine(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RAISE ''no''; END'",
    );
    await session.query('DELETE FROM files WHERE id = 2');
    await world.sql('ALTER FUNCTION fine(int) RENAME TO other');
    await session.query('DELETE FROM files WHERE id = 3');
    await session.query("INSERT INTO files VALUES (4, 'd'); TRUNCATE files");
    expect(await world.written()).toEqual([]);
    expect((await world.dead()).map(row => row.last_error)).toEqual([
      expect.stringContaining('because no.'),
      expect.stringContaining('function app.fine(integer) does not exist'),
      expect.stringContaining('function app.fine(integer) does not exist'),
    ]);
  });
});
