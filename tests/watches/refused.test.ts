/** Declarations that are refused, and the reason they give. Nothing is left of them. */
import { beforeEach, expect, it } from 'vitest';
import { onEveryMajor } from './world.ts';

onEveryMajor('watch() refuses', world => {
  beforeEach(() => world.sql('CREATE TABLE files (id int PRIMARY KEY, path text, n numeric, day date)'));
  const call = async (text: string) => await world.sql(`SELECT afterdelete.watch(${text})`);
  const refused = async (text: string, message: string, hint: string) => {
    await expect(call(text)).rejects.toMatchObject({
      code: '22023',
      message: expect.stringContaining(`nothing is watched: ${message}`),
      ...(hint === '' ? {} : { hint: expect.stringContaining(hint) }),
    });
    expect(await world.sql('SELECT FROM afterdelete.watched')).toEqual([]);
    expect(await world.sql("SELECT FROM pg_proc WHERE proname ~ '^capture_[0-9]+$'")).toEqual([]);
  };

  it.each([
    ['file:///data/files/', 'names no column: every row would hold the same', '{column}, or {+column}'],
    ['', 'names no column', '{column}'],
    [
      'file:///data/{nothing}',
      "app.files has no column 'nothing', which the template 'file:///data/{nothing}' names",
      'Its columns: id, path, n, day',
    ],
    ['file:///data/{Path}', "app.files has no column 'Path'", 'Its columns: id, path'],
    ['file:///data/{ctid}', "app.files has no column 'ctid'", 'Its columns'],
    ['file:///data/{}', "app.files has no column ''", 'Its columns'],
    ['file:///data/{day}', 'the column day of app.files is of type date', 'A placeholder is text'],
    ['file:///data/{path', 'has a brace that belongs to no placeholder', '{column}'],
    ['file:///data/path}', 'has a brace that belongs to no placeholder', '{column}'],
    ['file:///data/{{path}}', 'has a brace that belongs to no placeholder', '{column}'],
    ['file:///data/{path}}', 'has a brace that belongs to no placeholder', '{column}'],
    ['/data/{path}', 'begins with no scheme', 'file:// or s3://'],
    ['{path}', 'begins with no scheme', 'written out'],
    ['{+path}', 'begins with no scheme', 'written out'],
    ['{path}://data/{id}', 'begins with no scheme', 'written out'],
    ['File:///data/{path}', 'begins with no scheme', 'file://'],
    ['file:/data/{path}', 'begins with no scheme', 'file://'],
    ['file://{path}', 'it breaks the rule target_of_a_file_has_a_path', 'file:///data/trainings/{id}/'],
    ['file:///data//{path}', 'it breaks the rule target_of_a_file_has_no_empty_segments', ''],
    ['file:///data/../{path}', 'it breaks the rule target_has_no_dot_segments', ''],
    ['file:///data/./{path}', 'it breaks the rule target_has_no_dot_segments', ''],
    ['file:///data/\n{path}', 'it breaks the rule target_has_no_control_characters', ''],
    [`file:///${'x'.repeat(4096)}/{path}`, 'it breaks the rule target_at_most_4096_bytes', ''],
    ['s3:///{path}', 'it breaks the rule target_of_an_object_has_bucket_and_key', 's3://bucket/{+key}'],
    ['s3://{path}', 'it breaks the rule target_of_an_object_has_bucket_and_key', 's3://bucket/{+key}'],
    ['s3://{path}/', 'it breaks the rule target_of_an_object_has_bucket_and_key', 's3://bucket/{+key}'],
    ['s3://{+path}', 'it breaks the rule target_of_an_object_has_bucket_and_key', 's3://bucket/{+key}'],
    [`s3://${'b'.repeat(600)}/{path}`, 'it breaks the rule target_has_a_store_of_at_most_512_bytes', ''],
    ['file://host{path}/x', 'does not say where the host ends', 'file://{host}/path'],
  ])('the template %j', async (template, message, hint) => {
    await expect(world.watch('files', template)).rejects.toMatchObject({
      code: '22023',
      message: expect.stringContaining(message),
      hint: expect.stringContaining(hint),
    });
    expect(await world.sql('SELECT FROM afterdelete.watched')).toEqual([]);
  });

  it.each([
    ["NULL, 'file:///{id}'", 'there is no table with the number NULL', ''],
    ["0, 'file:///{id}'", 'there is no table with the number 0', ''],
    ["'files', NULL", 'the template is NULL', ''],
    ["'files', 'file:///d/{id}', NULL", 'the condition is empty', ''],
    ["'files', 'file:///d/{id}', delay => NULL", 'delay is NULL', 'from 0 to 100 years'],
    ["'files', 'file:///d/{id}', delay => '-1 second'", 'delay is -00:00:01', 'from 0 to 100 years'],
    ["'files', 'file:///d/{id}', delay => '101 years'", 'delay is 101 years', 'from 0 to 100 years'],
    ["'files', 'file:///d/{id}', prune_parents => NULL", 'prune_parents is NULL', '0 to 32'],
    ["'files', 'file:///d/{id}', prune_parents => -1", 'prune_parents is -1', '0 to 32'],
    ["'files', 'file:///d/{id}', prune_parents => 33", 'prune_parents is 33', '0 to 32'],
    ["'files', 's3://b/{id}', prune_parents => 1", 'prune_parents is 1', '0 for others'],
  ])('watch(%s)', refused);

  it.each(['infinity', '-infinity'])('a delay of %s, where there is such an interval', async delay => {
    await expect(call(`'files', 'file:///d/{id}', delay => '${delay}'`)).rejects.toThrow();
    expect(await world.sql('SELECT FROM afterdelete.watched')).toEqual([]);
  });

  it('a table that does not exist', async () => {
    await expect(call("'nothing', 'file:///d/{id}'")).rejects.toMatchObject({ code: '42P01' });
  });

  it.each([
    ['CREATE VIEW other AS SELECT 1 AS id', 'app.other is no table'],
    ['CREATE MATERIALIZED VIEW other AS SELECT 1 AS id', 'app.other is no table'],
    ['CREATE SEQUENCE other', 'app.other is no table'],
    ['CREATE TYPE other AS (id int)', 'app.other is no table'],
    ['CREATE INDEX other ON files (id)', 'app.other is no table'],
  ])('what %s makes', async (declaration, message) => {
    await world.sql(declaration);
    await refused("'other', 'file:///d/{id}'", message, 'watch the tables that hold the rows');
  });

  it('a foreign table', async () => {
    await world
      .as('postgres')
      .sql(
        'CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere; CREATE FOREIGN TABLE app.other (id int) SERVER nowhere',
      );
    try {
      await refused("'other', 'file:///d/{id}'", 'app.other is no table', 'foreign tables cannot be watched');
    } finally {
      await world.as('postgres').sql('DROP FOREIGN DATA WRAPPER nowhere CASCADE');
    }
  });

  it('a temporary table', async () => {
    const session = await world.connect();
    await session.query('CREATE TEMP TABLE other (id int)');
    await expect(session.query("SELECT afterdelete.watch('other', 'file:///d/{id}')")).rejects.toMatchObject({
      message: expect.stringMatching(/nothing is watched: (pg_temp.*\.)?other is temporary/),
      hint: expect.stringContaining('in a session of its own'),
    });
  });

  it.each([
    ['afterdelete.watched', 'belongs to afterdelete itself'],
    ['afterdelete.pending_file_cleanup', 'belongs to afterdelete itself'],
    ['afterdelete.done_file_cleanup', 'belongs to afterdelete itself'],
    ['pg_class', 'belongs to PostgreSQL'],
    ['information_schema.sql_features', ''],
  ])('%s', async (relation, message) => {
    await refused(`'${relation}', 'file:///d/{id}'`, '', '');
    await expect(call(`'${relation}', 'file:///d/{id}'`)).rejects.toThrow(message);
  });

  it('what the database keeps long values in', async () => {
    await refused(
      "(SELECT reltoastrelid FROM pg_class WHERE oid = 'files'::regclass), 'file:///d/{chunk_id}'",
      'pg_toast.',
      '',
    );
  });
});

onEveryMajor('watch() names the right that is missing:', world => {
  beforeEach(async () => {
    await world.as('postgres').sql('CREATE SCHEMA other AUTHORIZATION maker');
    await world.as('maker').sql(
      `GRANT USAGE ON SCHEMA other TO keeper; CREATE TABLE other."the files" (id int) PARTITION BY LIST (id);
       CREATE TABLE other.leaf PARTITION OF other."the files" DEFAULT; GRANT SELECT, TRIGGER ON other."the files", other.leaf TO keeper`,
    );
  });
  const declare = () => world.watch('other."the files"', 'file:///d/{id}');

  it.each([
    [
      'REVOKE SELECT ON other."the files" FROM keeper',
      'keeper, who owns the schema afterdelete, has no SELECT on other."the files"',
      'GRANT SELECT ON other."the files" TO keeper',
    ],
    [
      'REVOKE TRIGGER ON other."the files" FROM keeper',
      'has no TRIGGER on other."the files"',
      'GRANT TRIGGER ON other."the files" TO keeper',
    ],
    [
      'REVOKE ALL ON other."the files" FROM keeper',
      'has no SELECT, TRIGGER on other."the files"',
      'GRANT SELECT, TRIGGER ON other."the files" TO keeper',
    ],
    [
      'REVOKE TRIGGER ON other.leaf FROM keeper',
      'has no TRIGGER on other.leaf',
      'GRANT TRIGGER ON other.leaf TO keeper',
    ],
  ])('%s', async (revoke, message, hint) => {
    await world.as('maker').sql(revoke);
    await expect(declare()).rejects.toMatchObject({
      code: '22023',
      message: expect.stringContaining(message),
      hint,
    });
    await world.as('maker').sql(hint);
    await declare();
  });

  it('USAGE on the schema', async () => {
    const { id } = (
      await world.sql<{ id: number }>(
        `SELECT '"the files"'::text, oid::int AS id FROM pg_class WHERE relname = 'the files'`,
      )
    )[0] ?? { id: 0 };
    await world.as('postgres').sql('REVOKE USAGE ON SCHEMA other FROM keeper');
    await expect(
      world.sql('SELECT afterdelete.watch($1::int, $2)', [id, 'file:///d/{id}']),
    ).rejects.toMatchObject({
      code: '22023',
      message: expect.stringContaining(
        'keeper, who owns the schema afterdelete, has no USAGE on the schema other',
      ),
      hint: 'GRANT USAGE ON SCHEMA other TO keeper',
    });
    await world.as('postgres').sql('GRANT USAGE ON SCHEMA other TO keeper');
    await declare();
  });

  it.each(['other."the files"', 'other.leaf'])('row-level security that hides rows of %s', async table => {
    await world.as('maker').sql(`ALTER TABLE ${table} ENABLE ROW LEVEL SECURITY`);
    await expect(declare()).rejects.toMatchObject({
      code: '22023',
      message: expect.stringContaining(`row-level security hides rows of ${table} from keeper`),
      hint: expect.stringContaining('ALTER ROLE keeper BYPASSRLS'),
    });
    // The owner of a table sees all of it, unless it is told not to.
    await world.as('postgres').sql(`ALTER TABLE ${table} OWNER TO keeper`);
    await declare();
    await world.sql(`ALTER TABLE ${table} FORCE ROW LEVEL SECURITY`);
    await expect(declare()).rejects.toThrow('row-level security hides rows');
  });

  it('row-level security that is set later does not stop the application', async () => {
    await declare();
    await world.as('maker').sql(
      `INSERT INTO other."the files" VALUES (1), (2), (3); ALTER TABLE other."the files" ENABLE ROW LEVEL SECURITY; ALTER TABLE other.leaf ENABLE ROW LEVEL SECURITY;
       DELETE FROM other."the files" WHERE id = 1; UPDATE other."the files" SET id = 5 WHERE id = 2; TRUNCATE other."the files"`,
    );
    expect(await world.written()).toEqual(['file:///d/1', 'file:///d/2']);
    expect(await world.dead()).toEqual([
      expect.objectContaining({
        source: 'TRUNCATE on other.leaf',
        last_error: expect.stringContaining('row-level security'),
      }),
    ]);
    // The guard is not blind: it blocks, and says why.
    const [verdict] = await world.sql(
      "SELECT verdict, reason FROM afterdelete.verdicts(ARRAY['file:///d/9'])",
    );
    expect(verdict).toMatchObject({
      verdict: 'blocked',
      reason: expect.stringContaining('row-level security'),
    });
  });

  it('rights that are taken away later do not stop the application', async () => {
    await declare();
    await world
      .as('maker')
      .sql(
        'INSERT INTO other."the files" VALUES (1), (2), (3); REVOKE ALL ON other."the files", other.leaf FROM keeper; REVOKE USAGE ON SCHEMA other FROM keeper',
      );
    await world
      .as('maker')
      .sql('DELETE FROM other."the files" WHERE id = 1; UPDATE other.leaf SET id = 5 WHERE id = 2');
    expect(await world.written()).toEqual(['file:///d/1', 'file:///d/2']);
    await world.as('maker').sql('TRUNCATE other."the files"');
    expect(await world.dead()).toEqual([
      expect.objectContaining({
        source: 'TRUNCATE on other.leaf',
        last_error: expect.stringContaining('permission denied'),
      }),
    ]);
  });
});
