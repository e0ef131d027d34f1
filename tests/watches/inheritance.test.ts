/** Tables that inherit: facts/postgres.md, section 1. */
import { beforeEach, expect, it } from 'vitest';
import { onEveryMajor } from './world.ts';

const data = (...ids: number[]) => ids.map(id => `file:///data/${id}`);

onEveryMajor('inheritance', world => {
  beforeEach(async () => {
    await world.sql(
      `CREATE TABLE files (id int, path text); CREATE TABLE images (width int) INHERITS (files); CREATE TABLE photos () INHERITS (images);
       INSERT INTO files VALUES (1, 'a'); INSERT INTO images VALUES (2, 'b', 100), (3, 'c', 100); INSERT INTO photos VALUES (4, 'd', 1)`,
    );
  });

  it('is captured through the parent, a row once', async () => {
    await world.watch('files', 'file:///data/{id}');
    await world.sql('DELETE FROM files');
    expect(await world.written()).toEqual(data(1, 2, 3, 4));
  });

  it('is captured on the parent ONLY and on children directly, a row once', async () => {
    await world.watch('files', 'file:///data/{id}');
    await world.sql('DELETE FROM ONLY files');
    expect(await world.taken()).toEqual(data(1));
    await world.sql('DELETE FROM ONLY images WHERE id = 2');
    expect(await world.taken()).toEqual(data(2));
    await world.sql('DELETE FROM images');
    expect(await world.taken()).toEqual(data(3, 4));
  });

  it('is captured when the path changes, in the parent and in children', async () => {
    await world.watch('files', 'file:///data/{path}');
    await world.sql(
      "UPDATE files SET path = 'x' WHERE id IN (1, 2); UPDATE photos SET path = 'y'; UPDATE images SET width = 5",
    );
    expect(await world.written()).toEqual(['a', 'b', 'd'].map(name => `file:///data/${name}`));
  });

  it('is captured when the parent is truncated, or a child, a row once', async () => {
    await world.watch('files', 'file:///data/{id}');
    await world.sql('TRUNCATE photos');
    expect(await world.taken()).toEqual(data(4));
    await world.sql('TRUNCATE ONLY files');
    expect(await world.taken()).toEqual(data(1));
    await world.sql('TRUNCATE files');
    expect(await world.taken()).toEqual(data(2, 3));
  });

  it('of a child that is watched itself is captured through the parent and directly', async () => {
    await world.watch('images', 'file:///data/{id}');
    await world.sql('DELETE FROM files WHERE id < 3');
    expect(await world.taken()).toEqual(data(2));
    await world.sql('DELETE FROM images WHERE id = 3; UPDATE files SET id = 40 WHERE id = 4');
    expect(await world.taken()).toEqual(data(3, 4));
    await world.sql('DELETE FROM photos');
    expect(await world.taken()).toEqual(data(40));
    await world.sql("INSERT INTO photos VALUES (5, 'e', 1); TRUNCATE files");
    expect(await world.taken()).toEqual(data(5));
  });

  it('is captured once where a table inherits from two tables that are watched', async () => {
    await world.sql(
      'CREATE TABLE parts (id int); CREATE TABLE shared () INHERITS (files, parts); INSERT INTO shared VALUES (9)',
    );
    await world.watch('files', 'file:///data/{id}');
    await world.watch('parts', 'file:///parts/{id}');
    await world.sql('DELETE FROM parts');
    expect(await world.written()).toEqual(['file:///data/9', 'file:///parts/9']);
  });

  it('is captured through the parent for a table that inherits since; directly once declared anew, as check says', async () => {
    await world.watch('files', 'file:///data/{id}');
    await world.sql('CREATE TABLE late () INHERITS (files); INSERT INTO late VALUES (5), (6), (7), (8)');
    await world.sql('DELETE FROM files WHERE id = 5');
    expect(await world.taken()).toEqual(data(5));
    expect(await world.sql('SELECT problem FROM afterdelete.watch_problems() WHERE broken')).toEqual([
      {
        problem:
          'not captured, because there is no trigger: DELETE of app.late, TRUNCATE of app.late, UPDATE of app.late',
      },
    ]);
    await world.watch('files', 'file:///data/{id}');
    await world.sql('DELETE FROM late WHERE id = 6');
    expect(await world.taken()).toEqual(data(6));
  });

  it('is captured by TRUNCATE of the parent for a table that inherits since; TRUNCATE ONLY ends as kept', async () => {
    await world.watch('files', 'file:///data/{id}');
    await world.sql('CREATE TABLE late () INHERITS (files); INSERT INTO late VALUES (5)');
    await world.sql('TRUNCATE ONLY files');
    expect(await world.taken()).toEqual(data(1, 5));
    expect(await world.verdict('file:///data/5')).toBe('kept');
    await world.sql('TRUNCATE files');
    expect(await world.taken()).toEqual(data(2, 3, 4, 5));
  });

  it('fires nothing for a table that no longer inherits', async () => {
    await world.watch('files', 'file:///data/{id}');
    await world.sql('ALTER TABLE photos NO INHERIT images; DELETE FROM photos');
    expect(await world.written()).toEqual([]);
    await world.sql("INSERT INTO photos VALUES (4, 'd', 1); TRUNCATE photos");
    expect(await world.written()).toEqual([]);
  });
});
