/** Partitioned tables: facts/postgres.md, section 1. */
import { beforeEach, expect, it } from 'vitest';
import { onEveryMajor } from './world.ts';

const PARTITIONED = `
  CREATE TABLE files (id int, path text, region int NOT NULL DEFAULT 1) PARTITION BY LIST (region);
  CREATE TABLE files_1 PARTITION OF files FOR VALUES IN (1);
  CREATE TABLE files_2 PARTITION OF files FOR VALUES IN (2, 3) PARTITION BY LIST (region);
  CREATE TABLE files_22 PARTITION OF files_2 FOR VALUES IN (2);
  CREATE TABLE files_23 (region int NOT NULL, gone int, path text, id int);
  ALTER TABLE files_23 DROP COLUMN gone;
  ALTER TABLE files_2 ATTACH PARTITION files_23 FOR VALUES IN (3);
  INSERT INTO files VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3)`;
const data = (...names: string[]) => names.map(name => `file:///data/${name}`);

onEveryMajor('a partitioned table', world => {
  beforeEach(async () => {
    await world.sql(PARTITIONED);
    await world.watch('files', 'file:///data/{path}');
  });

  it('is captured through the root, a row once', async () => {
    await world.sql('DELETE FROM files');
    expect(await world.written()).toEqual(data('a', 'b', 'c'));
  });

  it('is captured directly on its leaves and on the table between, a row once', async () => {
    await world.sql('DELETE FROM files_1');
    expect(await world.taken()).toEqual(data('a'));
    await world.sql('DELETE FROM files_22');
    expect(await world.taken()).toEqual(data('b'));
    await world.sql('DELETE FROM files_2');
    expect(await world.taken()).toEqual(data('c'));
  });

  it('is captured when a path changes, through the root and on a leaf', async () => {
    await world.sql("UPDATE files SET path = path || '-2' WHERE id < 3; UPDATE files_23 SET path = 'x'");
    expect(await world.written()).toEqual(data('a', 'b', 'c'));
  });

  it('writes nothing for an unrelated UPDATE', async () => {
    await world.sql('UPDATE files SET id = id + 10');
    expect(await world.written()).toEqual([]);
  });

  // Row by row: what one statement swaps is seen one row after the other.
  it('ends as kept when two paths are swapped', async () => {
    await world.sql(
      "INSERT INTO files VALUES (4, 'd', 1); UPDATE files SET path = CASE path WHEN 'a' THEN 'd' ELSE 'a' END WHERE region = 1",
    );
    for (const target of await world.written()) expect(await world.verdict(target)).toBe('kept');
  });

  it('ends as kept when a row moves to another partition', async () => {
    await world.sql('UPDATE files SET region = 3 WHERE id = 1');
    for (const target of await world.written()) expect(await world.verdict(target)).toBe('kept');
    expect(await world.verdict('file:///data/a')).toBe('kept');
  });

  it('is captured when a row moves and changes its path in the same UPDATE', async () => {
    await world.sql("UPDATE files SET region = 3, path = 'new' WHERE id = 1");
    expect(await world.written()).toEqual(data('a'));
    expect(await world.verdict('file:///data/a')).toBe('free');
    expect(await world.verdict('file:///data/new')).toBe('kept');
  });

  it('is captured on a partition that was made later', async () => {
    await world.sql(
      "CREATE TABLE files_4 PARTITION OF files FOR VALUES IN (4); INSERT INTO files VALUES (4, 'd', 4), (5, 'e', 4), (6, 'f', 4)",
    );
    await world.sql('DELETE FROM files WHERE id = 4');
    await world.sql('DELETE FROM files_4 WHERE id = 5');
    await world.sql("UPDATE files_4 SET path = 'new'");
    expect(await world.written()).toEqual(data('d', 'e', 'f'));
  });

  it('is captured on a table that was attached later, with partitions of its own', async () => {
    await world.sql(
      `CREATE TABLE late (region int NOT NULL, path text, id int) PARTITION BY LIST (region);
       CREATE TABLE late_5 PARTITION OF late FOR VALUES IN (5);
       INSERT INTO late VALUES (5, 'e', 5), (5, 'f', 6);
       ALTER TABLE files ATTACH PARTITION late FOR VALUES IN (5, 6);
       CREATE TABLE late_6 PARTITION OF late FOR VALUES IN (6);
       INSERT INTO files VALUES (7, 'g', 6)`,
    );
    await world.sql('DELETE FROM files WHERE id = 5; DELETE FROM late_5; DELETE FROM late');
    expect(await world.written()).toEqual(data('e', 'f', 'g'));
  });

  it('is captured on a partition that the owner of the table makes, who has no right in the schema', async () => {
    await world.sql('GRANT CREATE ON SCHEMA app TO maker; DROP TABLE files');
    await world.as('maker').sql(PARTITIONED);
    await world
      .as('maker')
      .sql('GRANT SELECT, TRIGGER ON files, files_1, files_2, files_22, files_23 TO keeper');
    await world.watch('files', 'file:///data/{path}');
    expect(
      await world.sql("SELECT has_schema_privilege('maker', 'afterdelete', 'USAGE, CREATE') AS any_right"),
    ).toEqual([{ any_right: false }]);
    await world.as('maker').sql(
      `CREATE TABLE files_4 PARTITION OF files FOR VALUES IN (4) PARTITION BY LIST (region);
         CREATE TABLE files_44 PARTITION OF files_4 FOR VALUES IN (4);
         INSERT INTO files VALUES (4, 'd', 4), (5, 'e', 4); DELETE FROM files WHERE id = 4; DELETE FROM files_44`,
    );
    expect(await world.written()).toEqual(data('d', 'e'));
  });

  it('is captured on a partition that the owner of a table between makes, who is somebody else', async () => {
    await world
      .as('postgres')
      .sql(
        'GRANT CREATE ON SCHEMA app TO maker; ALTER TABLE files_2 OWNER TO maker; GRANT ALL ON files_2 TO keeper',
      );
    await world.watch('files', 'file:///data/{path}');
    await world
      .as('maker')
      .sql(
        'ALTER TABLE files_2 DETACH PARTITION files_22; CREATE TABLE files_2b PARTITION OF files_2 FOR VALUES IN (2)',
      );
    await world.sql("INSERT INTO files VALUES (8, 'h', 2); DELETE FROM files WHERE id = 8");
    expect(await world.written()).toEqual(data('h'));
  });

  it.each(['ALTER TABLE files DETACH PARTITION files_1', 'DROP TABLE files_1', 'DROP TABLE files'])(
    'fires nothing for %s: only an audit finds what the rows held',
    async statement => {
      await world.sql(statement);
      expect(await world.written()).toEqual([]);
      expect(await world.dead()).toEqual([]);
    },
  );

  it('takes a foreign table for a partition', async () => {
    await world.as('postgres').sql(
      `CREATE EXTENSION file_fdw; CREATE SERVER disk FOREIGN DATA WRAPPER file_fdw;
       CREATE FOREIGN TABLE app.files_f PARTITION OF app.files FOR VALUES IN (9) SERVER disk OPTIONS (filename '/dev/null', format 'csv');
       GRANT SELECT, TRIGGER ON app.files_f TO keeper`,
    );
    try {
      await world.watch('files', 'file:///data/{path}');
      await world.watch('files', 'file:///logs/{id}');
      await world.sql('DELETE FROM files WHERE region = 1; TRUNCATE files_2');
      expect(await world.written()).toEqual([
        ...data('a', 'b', 'c'),
        'file:///logs/1',
        'file:///logs/2',
        'file:///logs/3',
      ]);
      expect(
        await world.sql('SELECT problem FROM afterdelete.watch_problems() WHERE problem LIKE $1', [
          '%trigger%',
        ]),
      ).toEqual([]);
    } finally {
      await world.as('postgres').sql('DROP EXTENSION file_fdw CASCADE');
    }
  });

  it('fires nothing on a leaf that was detached', async () => {
    await world.sql(
      "ALTER TABLE files DETACH PARTITION files_1; UPDATE files_1 SET path = 'x'; DELETE FROM files_1",
    );
    expect(await world.written()).toEqual([]);
  });

  it('fires nothing on a leaf that is being detached concurrently, once it is detached', async () => {
    await world.sql('ALTER TABLE files DETACH PARTITION files_1 CONCURRENTLY');
    await world.sql('DELETE FROM files_1');
    expect(await world.written()).toEqual([]);
  });
});

onEveryMajor('a partition', world => {
  beforeEach(() => world.sql(PARTITIONED));

  it('that is watched itself is captured through the root and directly, and its siblings are not', async () => {
    await world.sql("INSERT INTO files VALUES (4, 'd', 3), (5, 'e', 3)");
    await world.watch('files_23', 'file:///data/{path}');
    await world.sql('DELETE FROM files WHERE id <= 3');
    expect(await world.taken()).toEqual(data('c'));
    await world.sql('DELETE FROM files_23 WHERE id = 4');
    expect(await world.taken()).toEqual(data('d'));
    await world.sql("UPDATE files SET path = 'new'");
    expect(await world.taken()).toEqual(data('e'));
    await world.sql('TRUNCATE files');
    expect(await world.taken()).toEqual(data('new'));
  });

  it('that is watched itself ends a hold when a row moves away', async () => {
    await world.watch('files_1', 'file:///data/{path}');
    await world.sql('UPDATE files SET region = 2 WHERE id = 1');
    expect(await world.written()).toEqual(data('a'));
    expect(await world.verdict('file:///data/a')).toBe('free');
  });

  it('that is partitioned is captured with what is attached to it later', async () => {
    await world.watch('files_2', 'file:///data/{path}');
    await world.sql(
      `ALTER TABLE files_2 DETACH PARTITION files_22; DROP TABLE files_22; CREATE TABLE files_2x PARTITION OF files_2 FOR VALUES IN (2);
       INSERT INTO files VALUES (9, 'i', 2), (10, 'j', 2); DELETE FROM files WHERE id IN (1, 3, 9); DELETE FROM files_2x`,
    );
    expect(await world.written()).toEqual(data('c', 'i', 'j'));
  });

  it('and its root that are both watched write each what its own template says', async () => {
    await world.watch('files', 'file:///data/{path}');
    await world.watch('files_1', 'file:///logs/{id}');
    await world.sql('DELETE FROM files');
    expect(await world.written()).toEqual([...data('a', 'b', 'c'), 'file:///logs/1']);
  });

  it('that was watched as a plain table is found by check after it is attached, and is captured once declared anew', async () => {
    await world.sql("CREATE TABLE late (LIKE files); INSERT INTO late VALUES (5, 'e', 5), (6, 'f', 5)");
    await world.watch('late', 'file:///data/{path}');
    await world.sql('ALTER TABLE files ATTACH PARTITION late FOR VALUES IN (5)');
    await world.sql('DELETE FROM files WHERE id = 5');
    expect(await world.written()).toEqual([]);
    expect(await world.sql('SELECT problem FROM afterdelete.watch_problems() WHERE broken')).toEqual([
      {
        problem:
          'the table became, or is no longer, a partition or an inheriting table since it was declared: some statements are not captured',
      },
    ]);
    await world.watch('late', 'file:///data/{path}');
    await world.sql('DELETE FROM files WHERE id = 6');
    expect(await world.written()).toEqual(data('f'));
    expect(await world.sql('SELECT problem FROM afterdelete.watch_problems() WHERE broken')).toEqual([]);
  });
});
