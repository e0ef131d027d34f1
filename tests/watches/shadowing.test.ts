/** Names and types of a role's own in the place of those that a trigger means. */
import { expect, it } from 'vitest';
import { onEveryMajor } from './world.ts';

onEveryMajor('shadowing', world => {
  const SHADOWS = `
    CREATE TEMP TABLE pending_file_cleanup (target text, run_at timestamptz, prune_parents int, source text);
    CREATE TEMP TABLE dead_file_cleanup (target text, prune_parents int, source text, last_error text, final bool);
    CREATE TEMP TABLE watched (id bigint, relation regclass, template text);
    CREATE TEMP TABLE gone (id int, path text); CREATE TEMP TABLE stay (id int, path text); CREATE TEMP TABLE pg_attribute (attname text);
    INSERT INTO gone VALUES (1, 'injected');
    CREATE FUNCTION pg_temp.now() RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN RAISE ''shadowed''; END';
    CREATE FUNCTION pg_temp.left(text, int) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE ''shadowed''; END';
    CREATE FUNCTION pg_temp.strpos(text, text) RETURNS int LANGUAGE plpgsql AS 'BEGIN RAISE ''shadowed''; END';
    CREATE FUNCTION pg_temp.count(anyelement) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RAISE ''shadowed''; END';
    CREATE FUNCTION pg_temp.record_image_eq(record, record) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RAISE ''shadowed''; END'`;

  it.each(['', 'PARTITION BY LIST (id)'])(
    'by temporary tables, functions and search_path changes nothing %s',
    async partitions => {
      await world.as('postgres').sql('CREATE SCHEMA evil AUTHORIZATION clerk');
      await world.sql(
        `CREATE TABLE files (id int, path text) ${partitions}; GRANT ALL ON files TO clerk; GRANT TEMP ON DATABASE ${new URL(world.url).pathname.slice(1)} TO clerk`,
      );
      if (partitions !== '')
        await world.sql('CREATE TABLE files_d PARTITION OF files DEFAULT; GRANT ALL ON files_d TO clerk');
      await world.watch('files', 'file:///data/{path}', { condition: "path <> 'x'" });
      const session = await world.connect('clerk');
      await session.query(SHADOWS);
      await session.query(
        `${SHADOWS.replaceAll('TEMP TABLE ', 'TABLE evil.').replaceAll('pg_temp.', 'evil.').replaceAll('INSERT INTO gone', 'INSERT INTO evil.gone')};
       CREATE FUNCTION evil.neq(text, text) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RAISE ''shadowed''; END';
       CREATE OPERATOR evil.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.neq)`,
      );
      await session.query('SET search_path = pg_temp, evil, pg_catalog');
      await session.query("INSERT INTO app.files VALUES (1, 'a'), (2, 'b'), (3, ''), (4, 'c')");
      await session.query("UPDATE app.files SET path = 'new' WHERE id = 1");
      await session.query('DELETE FROM app.files WHERE id = 2');
      await session.query('TRUNCATE app.files');
      expect(await world.written()).toEqual(['a', 'b', 'c', 'new'].map(name => `file:///data/${name}`));
      expect((await world.dead()).map(row => row.source)).toEqual(['TRUNCATE on app.files']);
      expect(
        (
          await session.query(
            'SELECT FROM pg_temp.pending_file_cleanup UNION ALL SELECT FROM evil.pending_file_cleanup',
          )
        ).rows,
      ).toEqual([]);
    },
  );

  it('by a type whose cast to json is a function of its owner gives that function no rights', async () => {
    await world.sql('GRANT CREATE ON SCHEMA app TO maker; GRANT CREATE ON SCHEMA app TO stranger');
    await world.as('maker').sql(
      `CREATE TYPE app.kind AS ENUM ('x', 'y');
       CREATE FUNCTION app.as_json(app.kind) RETURNS json LANGUAGE plpgsql AS $$BEGIN
         RAISE EXCEPTION 'run as %', current_user USING ERRCODE = '57000'; END$$;
       CREATE FUNCTION app.as_text(app.kind) RETURNS text LANGUAGE plpgsql AS $$BEGIN
         RAISE EXCEPTION 'run as %', current_user USING ERRCODE = '57000'; END$$;
       CREATE CAST (app.kind AS json) WITH FUNCTION app.as_json(app.kind);
       CREATE CAST (app.kind AS text) WITH FUNCTION app.as_text(app.kind) AS IMPLICIT;
       CREATE TABLE app.files (kind app.kind, id int, path text, n int DEFAULT 0, PRIMARY KEY (kind, id));
       INSERT INTO app.files VALUES ('x', 1, 'a'), ('y', 2, 'b'), ('x', 3, 'c');
       GRANT SELECT, TRIGGER ON app.files TO keeper`,
    );
    await world.watch('files', 'file:///data/{path}', { condition: '10 / n > 0' });
    await world.watch('files', 'file:///kinds/{kind}');
    const maker = world.as('maker');
    await maker.sql('DELETE FROM app.files WHERE id = 1');
    await maker.sql("UPDATE app.files SET kind = 'x' WHERE id = 2");
    expect(await world.written()).toEqual(['file:///kinds/x', 'file:///kinds/y']);
    expect((await world.dead()).map(row => row.last_error)).toEqual([
      expect.stringContaining('Rows: {"id": 1, "kind": "x"}'),
      expect.stringContaining('Rows: {"id": 2, "kind": "y"}'),
    ]);
    await maker.sql('ALTER TABLE app.files RENAME path TO place; DELETE FROM app.files WHERE id = 2');
    await maker.sql('TRUNCATE app.files');
    expect(await world.sql("SELECT relation::text FROM afterdelete.holders('file:///kinds/x')")).toEqual([]);
  });
});
