/** UPDATE, and what amounts to one: facts/postgres.md, section 1. */
import { beforeEach, expect, it } from 'vitest';
import { onEveryMajor } from './world.ts';

onEveryMajor('UPDATE', world => {
  beforeEach(async () => {
    await world.sql(
      `CREATE TABLE files (id int PRIMARY KEY, path text, note text, deleted_at timestamptz);
       INSERT INTO files VALUES (1, 'a'), (2, 'b'), (3, 'c')`,
    );
  });

  it('of the path ends the old hold', async () => {
    await world.watch('files', 'file:///data/{path}');
    await world.sql("UPDATE files SET path = 'new' WHERE id = 1");
    expect(await world.written()).toEqual(['file:///data/a']);
    expect(await world.sql('SELECT source FROM afterdelete.pending_file_cleanup')).toEqual([
      { source: 'UPDATE on app.files' },
    ]);
    expect(await world.verdict('file:///data/a')).toBe('free');
    expect(await world.verdict('file:///data/new')).toBe('kept');
  });

  it('of the path to NULL ends the hold, and from NULL ends none', async () => {
    await world.watch('files', 'file:///data/{path}');
    await world.sql('UPDATE files SET path = NULL WHERE id = 1');
    expect(await world.taken()).toEqual(['file:///data/a']);
    await world.sql("UPDATE files SET path = 'z' WHERE id = 1");
    expect(await world.written()).toEqual([]);
  });

  it('of an unrelated column writes nothing', async () => {
    await world.watch('files', 'file:///data/{path}', { condition: 'deleted_at IS NULL' });
    await world.sql("UPDATE files SET note = 'x'; UPDATE files SET path = path");
    expect(await world.written()).toEqual([]);
  });

  it('that swaps two paths writes nothing', async () => {
    await world.watch('files', 'file:///data/{path}');
    await world.sql("UPDATE files SET path = CASE id WHEN 1 THEN 'b' ELSE 'a' END WHERE id < 3");
    expect(await world.written()).toEqual([]);
  });

  it('that moves paths round and lets one go writes that one', async () => {
    await world.watch('files', 'file:///data/{path}');
    await world.sql("UPDATE files SET path = CASE id WHEN 1 THEN 'b' WHEN 2 THEN 'c' ELSE 'new' END");
    expect(await world.written()).toEqual(['file:///data/a']);
  });

  it('of a path that differs in case or accent only ends the old hold', async () => {
    await world.watch('files', 'file:///data/{path}');
    await world.sql(
      "UPDATE files SET path = 'A' WHERE id = 1; UPDATE files SET path = 'b\u0301' WHERE id = 2",
    );
    expect(await world.written()).toEqual(['file:///data/a', 'file:///data/b']);
  });

  it('of the condition is a soft delete, with the delay of the watch', async () => {
    await world.watch('files', 'file:///data/{path}', { condition: 'deleted_at IS NULL', delay: '30 days' });
    await world.sql('UPDATE files SET deleted_at = now() WHERE id = 1');
    expect(
      await world.sql(
        "SELECT target, run_at > now() + interval '29 days' AS later FROM afterdelete.pending_file_cleanup",
      ),
    ).toEqual([{ target: 'file:///data/a', later: true }]);
    expect(await world.verdict('file:///data/a')).toBe('free');
    // What was softly deleted holds nothing: the DELETE that follows writes no second one.
    await world.sql('DELETE FROM files WHERE id = 1');
    expect(await world.written()).toEqual(['file:///data/a']);
  });

  it('that undoes a soft delete writes nothing, and the target is kept', async () => {
    await world.watch('files', 'file:///data/{path}', { condition: 'deleted_at IS NULL', delay: '30 days' });
    await world.sql('UPDATE files SET deleted_at = now() WHERE id = 1');
    expect(await world.taken()).toEqual(['file:///data/a']);
    await world.sql('UPDATE files SET deleted_at = NULL WHERE id = 1');
    expect(await world.written()).toEqual([]);
    expect(await world.verdict('file:///data/a')).toBe('kept');
  });

  it('of the path of a row for which the condition is not true writes nothing', async () => {
    await world.watch('files', 'file:///data/{path}', { condition: 'id > 1' });
    await world.sql("UPDATE files SET path = 'new' WHERE id = 1; DELETE FROM files WHERE id = 1");
    expect(await world.written()).toEqual([]);
  });

  it('by a BEFORE trigger is captured, though the statement does not name the column', async () => {
    await world.sql(
      `CREATE FUNCTION rename() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.path := NEW.path || NEW.note; RETURN NEW; END';
       CREATE TRIGGER rename BEFORE UPDATE ON files FOR EACH ROW EXECUTE FUNCTION rename()`,
    );
    await world.watch('files', 'file:///data/{path}');
    await world.sql("UPDATE files SET note = '-2' WHERE id = 1");
    expect(await world.written()).toEqual(['file:///data/a']);
    expect(await world.verdict('file:///data/a-2')).toBe('kept');
  });

  it('by a rule in the place of DELETE is a soft delete', async () => {
    await world.sql(
      'CREATE RULE soft AS ON DELETE TO files DO INSTEAD UPDATE files SET deleted_at = now() WHERE id = OLD.id',
    );
    await world.watch('files', 'file:///data/{path}', { condition: 'deleted_at IS NULL' });
    await world.sql('DELETE FROM files WHERE id = 1');
    expect(await world.written()).toEqual(['file:///data/a']);
    expect(await world.sql('SELECT FROM files')).toHaveLength(3);
  });

  it('that a BEFORE trigger turns off writes nothing', async () => {
    await world.sql(
      `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
       CREATE TRIGGER refuse BEFORE UPDATE OR DELETE ON files FOR EACH ROW EXECUTE FUNCTION refuse()`,
    );
    await world.watch('files', 'file:///data/{path}');
    await world.sql("UPDATE files SET path = 'new'; DELETE FROM files");
    expect(await world.written()).toEqual([]);
  });

  it('in an AFTER trigger of the same table is captured once', async () => {
    await world.sql(
      `CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS
         'BEGIN UPDATE app.files SET path = path || ''x'' WHERE id = OLD.id + 1 AND path NOT LIKE ''%x''; RETURN NULL; END';
       CREATE TRIGGER follow AFTER UPDATE ON files FOR EACH ROW EXECUTE FUNCTION follow()`,
    );
    await world.watch('files', 'file:///data/{path}');
    await world.sql("UPDATE files SET path = 'new' WHERE id = 1");
    expect(await world.written()).toEqual(['a', 'b', 'c'].map(name => `file:///data/${name}`));
  });

  it('of a generated column is captured', async () => {
    await world.sql("ALTER TABLE files ADD place text GENERATED ALWAYS AS (path || '.bin') STORED");
    await world.watch('files', 'file:///data/{place}');
    await world.sql("UPDATE files SET path = 'new' WHERE id = 1; DELETE FROM files WHERE id = 2");
    expect(await world.written()).toEqual(['file:///data/a.bin', 'file:///data/b.bin']);
  });

  it('of a value too long for a page is captured', async () => {
    const long = 'x'.repeat(100_000);
    await world.sql(
      'ALTER TABLE files ADD state text; UPDATE files SET state = $$live$$ || path, note = $$y$$ ',
    );
    await world.sql('UPDATE files SET note = $1', [long]);
    await world.watch('files', 'file:///data/{path}', { condition: `note = '${long}'` });
    await world.sql("UPDATE files SET state = 'x'");
    expect(await world.written()).toEqual([]);
    await world.sql("UPDATE files SET note = note || 'z' WHERE id = 1");
    expect(await world.written()).toEqual(['file:///data/a']);
  });

  it('by ON CONFLICT DO UPDATE is captured', async () => {
    await world.watch('files', 'file:///data/{path}');
    await world.sql(
      "INSERT INTO files VALUES (1, 'new'), (4, 'd') ON CONFLICT (id) DO UPDATE SET path = excluded.path",
    );
    expect(await world.written()).toEqual(['file:///data/a']);
    await world.sql("INSERT INTO files VALUES (2, 'other') ON CONFLICT DO NOTHING");
    expect(await world.written()).toEqual(['file:///data/a']);
  });

  it('by MERGE is captured, as is its DELETE', async () => {
    await world.watch('files', 'file:///data/{path}');
    await world.sql(
      `MERGE INTO files f USING (VALUES (1, 'new'), (2, NULL), (4, 'd'), (3, 'c')) AS s (id, path) ON f.id = s.id
       WHEN MATCHED AND s.path IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET path = s.path
       WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.path)`,
    );
    expect(await world.written()).toEqual(['file:///data/a', 'file:///data/b']);
  });

  it('that swaps composite values tells them apart', async () => {
    await world.watch('files', 'file:///data/{id}/{path}');
    await world.sql("UPDATE files SET path = CASE id WHEN 1 THEN 'b' ELSE 'a' END WHERE id < 3");
    expect(await world.written()).toEqual(['file:///data/1/a', 'file:///data/2/b']);
  });
});

// MERGE has more to say in newer versions.
onEveryMajor('MERGE', world => {
  it('captures WHEN NOT MATCHED BY SOURCE, where there is such a thing', async ({ skip }) => {
    skip(world.major < 17);
    await world.sql(
      "CREATE TABLE files (id int PRIMARY KEY, path text); INSERT INTO files VALUES (1, 'a'), (2, 'b')",
    );
    await world.watch('files', 'file:///data/{path}');
    const gone = await world.sql(
      `MERGE INTO files f USING (VALUES (1)) AS s (id) ON f.id = s.id
       WHEN NOT MATCHED BY SOURCE THEN DELETE RETURNING f.id`,
    );
    expect(gone).toEqual([{ id: 2 }]);
    expect(await world.written()).toEqual(['file:///data/b']);
  });

  it('on a partitioned table is captured', async () => {
    await world.sql(
      `CREATE TABLE files (id int, path text) PARTITION BY LIST (id);
       CREATE TABLE files_1 PARTITION OF files FOR VALUES IN (1); CREATE TABLE files_2 PARTITION OF files FOR VALUES IN (2, 3);
       INSERT INTO files VALUES (1, 'a'), (2, 'b'), (3, 'c')`,
    );
    await world.watch('files', 'file:///data/{path}');
    await world.sql(
      `MERGE INTO files f USING (VALUES (1, 'new'), (2, NULL)) AS s (id, path) ON f.id = s.id
       WHEN MATCHED AND s.path IS NULL THEN DELETE WHEN MATCHED THEN UPDATE SET path = s.path`,
    );
    expect(await world.written()).toEqual(['file:///data/a', 'file:///data/b']);
  });
});
