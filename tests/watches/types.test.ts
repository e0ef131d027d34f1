/** Which types a placeholder may have, and how their values are written. */
import { expect, it } from 'vitest';
import { deletedValue as deleted, onEveryMajor } from './world.ts';

onEveryMajor('types', world => {
  it.each([
    ['text', 'a b', 'a b'],
    ['varchar', 'é', 'é'],
    ['varchar(10)', '100%', '100%'],
    ['smallint', '-32768', '-32768'],
    ['int', '0', '0'],
    ['bigint', '9223372036854775807', '9223372036854775807'],
    ['numeric', '1.50', '1.50'],
    ['numeric(6,2)', '7', '7.00'],
    ['numeric', 'NaN', 'NaN'],
    ['numeric', '-Infinity', '-Infinity'],
    ['numeric', '1e20', '100000000000000000000'],
    ['uuid', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'],
    ['boolean', 't', 'true'],
    ['boolean', 'f', 'false'],
  ])('%s %s', async (type, value, rendered) => {
    expect(await deleted(world, type, value)).toEqual([`file:///data/${rendered}`]);
    await world.sql('INSERT INTO t (v) VALUES ($1)', [value]);
    expect(await world.verdict(`file:///data/${rendered}`)).toBe('kept');
    await world.sql('UPDATE t SET v = NULL');
    expect(await world.taken()).toEqual([`file:///data/${rendered}`]);
    expect(await world.dead()).toEqual([]);
  });

  it.each([
    ["CREATE TYPE mood AS ENUM ('happy', 'so so')", 'mood', 'so so'],
    ['CREATE DOMAIN name AS varchar(20) CHECK (length(VALUE) > 0)', 'app.name', 'x'],
    ['CREATE DOMAIN name AS text COLLATE "C" NOT NULL; CREATE DOMAIN nickname AS app.name', 'nickname', 'x'],
    ['CREATE DOMAIN number AS bigint', 'number', '12'],
    ["CREATE TYPE mood AS ENUM ('happy'); CREATE DOMAIN mine AS mood", 'mine', 'happy'],
  ])('%s', async (declaration, type, value) => {
    await world.sql(declaration);
    expect(await deleted(world, type, value)).toEqual([`file:///data/${value}`]);
    await world.sql('INSERT INTO t (v) VALUES ($1)', [value]);
    expect(await world.verdict(`file:///data/${value}`)).toBe('kept');
  });

  it.each([
    ['timestamptz', 'timestamp with time zone'],
    ['timestamp', 'timestamp without time zone'],
    ['date', 'date'],
    ['time', 'time without time zone'],
    ['interval', 'interval'],
    ['real', 'real'],
    ['float', 'double precision'],
    ['money', 'money'],
    ['json', 'json'],
    ['jsonb', 'jsonb'],
    ['xml', 'xml'],
    ['char(3)', 'character'],
    ['"char"', '"char"'],
    ['name', 'name'],
    ['bytea', 'bytea'],
    ['inet', 'inet'],
    ['bit(3)', 'bit'],
    ['text[]', 'text[]'],
    ['int4range', 'int4range'],
    ['oid', 'oid'],
    ['regclass', 'regclass'],
    ['point', 'point'],
  ])('%s is refused', async (type, name) => {
    await world.sql(`CREATE TABLE t (v ${type})`);
    await expect(world.watch('t', 'file:///data/{v}')).rejects.toMatchObject({
      code: '22023',
      message: `nothing is watched: the column v of app.t is of type ${name}, whose text form is not the same in every session or for every equal value`,
      hint: 'A placeholder is text, varchar, smallint, integer, bigint, numeric, uuid, boolean or an enum.',
    });
  });

  it.each([
    ['CREATE TYPE pair AS (a text, b text)', 'app.pair'],
    ['CREATE DOMAIN day AS date', 'app.day'],
    ['CREATE DOMAIN several AS text[]', 'app.several'],
  ])('%s: refused', async declaration_and_type => {
    const [, type] = /(\w+) AS/.exec(declaration_and_type) as unknown as [string, string];
    await world.sql(`${declaration_and_type}; CREATE TABLE t (v ${type})`);
    await expect(world.watch('t', 'file:///data/{v}')).rejects.toThrow(
      `of type app.${type}, whose text form`,
    );
  });

  it('citext is refused: equal values are written differently', async () => {
    await world.as('postgres').sql('CREATE EXTENSION IF NOT EXISTS citext SCHEMA app');
    await world.sql('CREATE TABLE t (v citext)');
    await expect(world.watch('t', 'file:///data/{v}')).rejects.toThrow('of type app.citext, whose text form');
  });

  it('a collation under which different texts are equal makes no difference', async () => {
    await world.sql(
      "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    );
    await world.sql(
      'CREATE TABLE files (id int PRIMARY KEY, path text COLLATE loose, state text COLLATE loose)',
    );
    await world.watch('files', 'file:///data/{path}');
    await world.watch('files', 'file:///all/{+path}', { condition: "state = 'live'" });
    await world.sql(
      "INSERT INTO files VALUES (1, 'a', 'LIVE'), (2, 'b', 'live'); UPDATE files SET path = 'A' WHERE id = 1",
    );
    expect(await world.taken()).toEqual(['file:///all/a', 'file:///data/a']);
    await world.sql("UPDATE files SET state = 'gone' WHERE id = 2; DELETE FROM files WHERE id = 1");
    expect(await world.taken()).toEqual(['file:///all/A', 'file:///all/b', 'file:///data/A']);
    await world.sql('TRUNCATE files');
    expect(await world.taken()).toEqual(['file:///data/b']);
    expect(await world.dead()).toEqual([]);
  });

  it('two columns of different collations stand in one template', async () => {
    await world.sql(
      'CREATE TABLE files (id int PRIMARY KEY, a text COLLATE "C", b varchar COLLATE "POSIX", c text); INSERT INTO files VALUES (1, $$a$$, $$b$$, $$c$$)',
    );
    await world.watch('files', 'file:///data/{a}/{b}/{+c}');
    await world.sql("UPDATE files SET a = 'x'; DELETE FROM files");
    expect(await world.written()).toEqual(['file:///data/a/b/c', 'file:///data/x/b/c']);
  });

  it('a virtual generated column is refused, in a template and in a condition: no trigger sees its value', async ({
    skip,
  }) => {
    skip(world.major < 18);
    await world.sql(
      "CREATE TABLE t (id int PRIMARY KEY, path text GENERATED ALWAYS AS ('p' || id) VIRTUAL, live bool GENERATED ALWAYS AS (id > 0) VIRTUAL)",
    );
    const refusal = {
      message: expect.stringContaining('is a virtual generated column, which no trigger sees'),
      hint: 'Declare it GENERATED ALWAYS AS (...) STORED.',
    };
    await expect(world.watch('t', 'file:///data/{path}')).rejects.toMatchObject(refusal);
    await expect(world.watch('t', 'file:///data/{id}', { condition: 'live' })).rejects.toMatchObject(refusal);
  });
});
