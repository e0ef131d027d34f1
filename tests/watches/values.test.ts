/** What a template makes of values, and what becomes of those that make no target. */
import { expect, it } from 'vitest';
import { deletedValue as deleted, onEveryMajor } from './world.ts';

onEveryMajor('values', world => {
  it('NULL holds nothing, in any place of a template', async () => {
    await world.sql(
      "CREATE TABLE files (a text, b int); INSERT INTO files VALUES (NULL, 1), ('x', NULL), (NULL, NULL), ('y', 2)",
    );
    await world.watch('files', 'file:///data/{a}/{b}');
    await world.sql('DELETE FROM files');
    expect(await world.written()).toEqual(['file:///data/y/2']);
    expect(await world.dead()).toEqual([]);
  });

  it('of several columns come together', async () => {
    await world.sql(
      "CREATE TABLE files (a text, b int, c text); INSERT INTO files VALUES ('x', 7, 'p/q.bin')",
    );
    await world.watch('files', 's3://bucket/{a}-{b}/{+c}/{b}.{a}');
    await world.sql('DELETE FROM files');
    expect(await world.written()).toEqual(['s3://bucket/x-7/p/q.bin/7.x']);
  });

  it('stand for a host, a bucket or a whole path', async () => {
    await world.sql(
      "CREATE TABLE files (host text, bucket text, path text); INSERT INTO files VALUES ('gpu-01', 'b1', '/x/y'), ('', 'b2', '/z'), ('gpu/02', NULL, '/z')",
    );
    await world.watch('files', 'file://{host}{+path}');
    await world.watch('files', 's3://{bucket}/all{+path}');
    await world.watch('files', 'gs://{bucket}/{host}/');
    await world.sql('DELETE FROM files');
    expect(await world.written()).toEqual([
      'file://gpu-01/x/y',
      'gs://b1/gpu-01/',
      's3://b1/all/x/y',
      's3://b2/all/z',
    ]);
    expect((await world.dead()).map(row => row.target)).toEqual([
      'file:///z',
      'file://gpu/02/z',
      'gs://b2//',
    ]);
  });

  it.each([
    ['a?b#c%2F&d=e', 'file:///data/{v}'],
    ['it\'s "x" \\n {v} $1 %s :v', 'file:///data/{v}'],
    ['日本語 🎉', 'file:///data/{v}'],
    ['...', 'file:///data/{v}'],
    ['x..', 'file:///data/{v}/'],
    ['-rf', 'file:///data/{v}'],
  ])('%j are rendered as they are', async (value, template) => {
    expect(await deleted(world, 'text', value, template)).toEqual([template.replace('{v}', () => value)]);
    expect(await world.dead()).toEqual([]);
  });

  it.each([
    ['', 'file:///data/{v}', 'file:///data/', '{v} is empty'],
    ['', 'file:///data/{v}/', 'file:///data//', '{v} is empty'],
    ['', 's3://bucket/{+v}', 's3://bucket/', '{v} is empty'],
    ['.', 'file:///data/{v}', 'file:///data/.', 'it breaks the rule target_has_no_dot_segments'],
    ['..', 'file:///data/{v}/', 'file:///data/../', 'it breaks the rule target_has_no_dot_segments'],
    [
      'a/../../etc',
      'file:///data/{+v}',
      'file:///data/a/../../etc',
      'it breaks the rule target_has_no_dot_segments',
    ],
    ['.', 'file:///data/{v}.', 'file:///data/..', 'it breaks the rule target_has_no_dot_segments'],
    ['..', 's3://b/{v}/x', 's3://b/../x', 'it breaks the rule target_has_no_dot_segments'],
    ['/', 'file:///data/{v}', 'file:///data//', '{v} has a slash, and only {+v} may have one'],
    ['a/b', 'file:///data/{v}', 'file:///data/a/b', '{v} has a slash, and only {+v} may have one'],
    [
      'a//b',
      'file:///data/{+v}',
      'file:///data/a//b',
      'it breaks the rule target_of_a_file_has_no_empty_segments',
    ],
    [
      '/a',
      'file:///data/{+v}',
      'file:///data//a',
      'it breaks the rule target_of_a_file_has_no_empty_segments',
    ],
    ['a\nb', 'file:///data/{v}', 'file:///data/a\nb', 'it breaks the rule target_has_no_control_characters'],
    ['a\u0085b', 's3://b/{v}', 's3://b/a\u0085b', 'it breaks the rule target_has_no_control_characters'],
    ['\u007f', 's3://b/{v}', 's3://b/\u007f', 'it breaks the rule target_has_no_control_characters'],
    [
      'other/data',
      'file://{+v}',
      'file:///{+v}',
      '{+v} does not begin with a slash, so that a part of it would be taken for a host',
    ],
    ['/', 'file://{+v}', 'file:///', 'it breaks the rule target_of_a_file_has_a_path'],
    [
      'h'.repeat(600),
      'file://{v}/x',
      `file://${'h'.repeat(600)}/x`,
      'it breaks the rule target_has_a_store_of_at_most_512_bytes',
    ],
  ])('%j in %s make a dead row that explains itself', async (value, template, target, why) => {
    expect(await deleted(world, 'text', value, template)).toEqual([]);
    const dead = await world.dead();
    expect(dead).toEqual([
      {
        target,
        source: 'DELETE on app.t',
        actor: 'keeper',
        final: true,
        last_error: expect.stringContaining(why),
      },
    ]);
    expect(dead[0]?.last_error).toContain('rendered to something that is no target');
    expect(dead[0]?.last_error).toContain(`{"v": ${JSON.stringify(value)}`.slice(0, 200));
  });

  it.each([5_000, 1_000_000])('%i characters make a dead row, not an error', async length => {
    expect(await deleted(world, 'text', 'x'.repeat(length))).toEqual([]);
    const [dead] = await world.dead();
    expect(dead?.last_error).toContain('it breaks the rule target_at_most_4096_bytes');
    expect(dead?.last_error.length).toBeLessThan(2000);
    expect(dead?.target.length).toBeLessThan(5000);
    // Nor does an UPDATE, which compares what was held with what is.
    await world.sql('INSERT INTO t (v) VALUES ($1)', ['y'.repeat(length)]);
    await world.sql("UPDATE t SET v = 'z'");
    expect(await world.dead()).toHaveLength(2);
  });

  it('a number of 10,000 digits makes a dead row', async () => {
    expect(await deleted(world, 'numeric', '7'.repeat(10_000))).toEqual([]);
    expect((await world.dead())[0]?.last_error).toContain('it breaks the rule target_at_most_4096_bytes');
  });

  it('an empty enum label makes a dead row', async () => {
    await world.sql("CREATE TYPE mood AS ENUM ('', 'a/b')");
    expect(await deleted(world, 'mood', '')).toEqual([]);
    expect(await deleted(world, 'mood', 'a/b')).toEqual([]);
    expect((await world.dead()).map(row => row.last_error)).toEqual([
      expect.stringContaining('{v} is empty'),
      expect.stringContaining('{v} has a slash'),
    ]);
  });

  it('bad ones among good ones are buried one by one, in DELETE and UPDATE', async () => {
    await world.sql(
      "CREATE TABLE files (id int PRIMARY KEY, path text); INSERT INTO files VALUES (1, 'a'), (2, '..'), (3, 'b'), (4, ''), (5, 'c'), (6, 'x/y')",
    );
    await world.watch('files', 'file:///data/{path}');
    await world.sql("UPDATE files SET path = 'new' || id WHERE id > 3");
    expect(await world.taken()).toEqual(['file:///data/c']);
    expect((await world.dead()).map(row => [row.source, row.target])).toEqual([
      ['UPDATE on app.files', 'file:///data/'],
      ['UPDATE on app.files', 'file:///data/x/y'],
    ]);
    await world.sql('DELETE FROM files WHERE id < 4');
    expect(await world.written()).toEqual(['file:///data/a', 'file:///data/b']);
    expect(await world.dead()).toHaveLength(3);
  });

  it.each([
    ['with a slash or empty, which the domain would take', "'x/' || i", "''"],
    ['that the domain refuses', "'..'", "'a' || chr(7)"],
  ])(
    'of hundreds of rows at once, some bad ones %s: each is written once, or buried',
    async (_, one, other) => {
      await world.sql(`CREATE TABLE files (id int PRIMARY KEY, path text);
      INSERT INTO files SELECT i, CASE i % 100 WHEN 0 THEN ${one} WHEN 50 THEN ${other} WHEN 25 THEN NULL ELSE 'p' || i END FROM generate_series(1, 400) i`);
      await world.watch('files', 'file:///data/{path}');
      await world.sql('DELETE FROM files');
      expect(await world.written()).toHaveLength(388);
      expect(await world.dead()).toHaveLength(8);
    },
  );

  it('that are bad before and after an UPDATE write nothing', async () => {
    await world.sql(
      "CREATE TABLE files (id int PRIMARY KEY, path text, note text); INSERT INTO files VALUES (1, '..')",
    );
    await world.watch('files', 'file:///data/{path}');
    await world.sql("UPDATE files SET note = 'x'");
    expect(await world.dead()).toEqual([]);
  });
});
