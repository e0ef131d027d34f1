/** DELETE, and what a DELETE brings about elsewhere: facts/postgres.md, section 1, first row. */
import { beforeEach, expect, it } from 'vitest';
import { onEveryMajor } from './world.ts';

onEveryMajor('DELETE', world => {
  it('writes one cleanup for each row, in the same transaction', async () => {
    await world.sql('CREATE TABLE trainings (id int PRIMARY KEY)');
    const watch = await world.watch('trainings', 'file:///data/{id}/', { prune_parents: 2 });
    await world.sql('INSERT INTO trainings SELECT generate_series(1, 3)');
    const session = await world.connect();
    await session.query('BEGIN; DELETE FROM trainings WHERE id < 3');
    const { rows } = await session.query(
      'SELECT target, run_at = now() AS at_once, prune_parents, source, actor, attempt FROM afterdelete.pending_file_cleanup ORDER BY id',
    );
    expect(await world.written()).toEqual([]);
    await session.query('COMMIT');
    const shared = {
      at_once: true,
      prune_parents: 2,
      source: 'DELETE on app.trainings',
      actor: 'keeper',
      attempt: 0,
    };
    expect(rows).toEqual([
      { target: 'file:///data/1/', ...shared },
      { target: 'file:///data/2/', ...shared },
    ]);
    expect(await world.written()).toEqual(['file:///data/1/', 'file:///data/2/']);
    expect(Number(watch)).toBeGreaterThan(0);
    expect(await world.dead()).toEqual([]);
  });

  it('writes nothing when no row goes', async () => {
    await world.sql(
      'CREATE TABLE trainings (id int PRIMARY KEY, path text); INSERT INTO trainings VALUES (1, $$a$$)',
    );
    await world.watch('trainings', 'file:///data/{id}/');
    await world.watch('trainings', 'file:///logs/{path}', { condition: '1 / id > 0' });
    await world.sql('DELETE FROM trainings WHERE id = 2; UPDATE trainings SET id = 5 WHERE id = 4');
    expect(await world.written()).toEqual([]);
    expect(await world.dead()).toEqual([]);
  });

  it('enqueues nothing when the transaction rolls back', async () => {
    await world.sql('CREATE TABLE trainings (id int PRIMARY KEY); INSERT INTO trainings VALUES (1)');
    await world.watch('trainings', 'file:///data/{id}/');
    await world.sql('BEGIN; DELETE FROM trainings; ROLLBACK');
    expect(await world.written()).toEqual([]);
    expect(await world.verdict('file:///data/1/')).toBe('kept');
  });

  it('enqueues nothing for what is rolled back to a savepoint', async () => {
    await world.sql(
      'CREATE TABLE trainings (id int PRIMARY KEY); INSERT INTO trainings VALUES (1), (2), (3)',
    );
    await world.watch('trainings', 'file:///data/{id}/');
    await world.sql(
      `BEGIN; DELETE FROM trainings WHERE id = 1; SAVEPOINT s; DELETE FROM trainings WHERE id = 2; ROLLBACK TO s;
       DELETE FROM trainings WHERE id = 3; COMMIT`,
    );
    expect(await world.written()).toEqual(['file:///data/1/', 'file:///data/3/']);
  });

  it('is due after the delay of the watch', async () => {
    await world.sql('CREATE TABLE trainings (id int PRIMARY KEY); INSERT INTO trainings VALUES (1)');
    await world.watch('trainings', 'file:///data/{id}/', { delay: '7 days' });
    await world.sql('DELETE FROM trainings');
    expect(
      await world.sql(
        "SELECT run_at - created_at BETWEEN interval '6 days 23 hours' AND interval '7 days' AS later FROM afterdelete.pending_file_cleanup",
      ),
    ).toEqual([{ later: true }]);
  });

  it('captures several watches of a table', async () => {
    await world.sql(
      "CREATE TABLE trainings (id int PRIMARY KEY, log text); INSERT INTO trainings VALUES (1, 'a/b.log')",
    );
    await world.watch('trainings', 'file:///data/{id}/');
    await world.watch('trainings', 's3://logs/{+log}');
    await world.sql('DELETE FROM trainings');
    expect(await world.written()).toEqual(['file:///data/1/', 's3://logs/a/b.log']);
  });

  it('ends what holders() and is_held() say', async () => {
    await world.sql('CREATE TABLE trainings (id int PRIMARY KEY); INSERT INTO trainings VALUES (1)');
    await world.watch('trainings', 'file:///data/{id}/');
    const holders = () =>
      world.sql(
        "SELECT relation::text, key, held, afterdelete.is_held('file:///data/1/') FROM afterdelete.holders('file:///data/') ",
      );
    expect(await holders()).toEqual([
      { relation: 'trainings', key: { id: 1 }, held: 'file:///data/1/', is_held: true },
    ]);
    await world.sql('DELETE FROM trainings');
    expect(await holders()).toEqual([]);
    expect(await world.sql("SELECT afterdelete.is_held('file:///data/1/')")).toEqual([{ is_held: false }]);
  });

  it('captures several tables, each for itself', async () => {
    await world.sql(
      'CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)',
    );
    await world.watch('a', 'file:///a/{id}');
    await world.watch('b', 'file:///b/{id}');
    await world.sql('DELETE FROM b');
    expect(await world.written()).toEqual(['file:///b/1']);
  });

  it('ends as kept while another row holds the same', async () => {
    await world.sql(
      "CREATE TABLE files (id int PRIMARY KEY, path text); INSERT INTO files VALUES (1, 'a'), (2, 'a')",
    );
    await world.watch('files', 'file:///data/{path}');
    await world.sql('DELETE FROM files WHERE id = 1');
    expect(await world.taken()).toEqual(['file:///data/a']);
    expect(await world.verdict('file:///data/a')).toBe('kept');
    await world.sql('DELETE FROM files WHERE id = 2');
    expect(await world.written()).toEqual(['file:///data/a']);
    expect(await world.verdict('file:///data/a')).toBe('free');
  });

  it('ends as kept when the row is inserted again in the same transaction', async () => {
    await world.sql('CREATE TABLE trainings (id int PRIMARY KEY); INSERT INTO trainings VALUES (1)');
    await world.watch('trainings', 'file:///data/{id}/');
    await world.sql('BEGIN; DELETE FROM trainings; INSERT INTO trainings VALUES (1); COMMIT');
    expect(await world.written()).toEqual(['file:///data/1/']);
    expect(await world.verdict('file:///data/1/')).toBe('kept');
  });

  it('captures what several parts of one statement delete', async () => {
    await world.sql(
      'CREATE TABLE trainings (id int PRIMARY KEY); INSERT INTO trainings SELECT generate_series(1, 4)',
    );
    await world.watch('trainings', 'file:///data/{id}/');
    await world.sql(
      `WITH one AS (DELETE FROM trainings WHERE id = 1 RETURNING id), two AS (DELETE FROM trainings WHERE id = 2 RETURNING id),
            moved AS (UPDATE trainings SET id = 30 WHERE id = 3 RETURNING id)
       DELETE FROM trainings WHERE id = 4`,
    );
    expect(await world.written()).toEqual([1, 2, 3, 4].map(id => `file:///data/${id}/`));
  });

  it('captures a DELETE through a view, a cursor, a function and a rule', async () => {
    await world.sql(
      `CREATE TABLE trainings (id int PRIMARY KEY); INSERT INTO trainings SELECT generate_series(1, 5);
       CREATE VIEW seen AS SELECT * FROM trainings WHERE id < 100;
       CREATE TABLE requests (id int); CREATE RULE act AS ON INSERT TO requests DO ALSO DELETE FROM trainings t WHERE t.id = NEW.id;
       CREATE FUNCTION remove(int) RETURNS void LANGUAGE sql AS 'DELETE FROM app.trainings WHERE id = $1'`,
    );
    await world.watch('trainings', 'file:///data/{id}/');
    await world.sql('DELETE FROM seen WHERE id = 1');
    await world.sql(
      'BEGIN; DECLARE c CURSOR FOR SELECT * FROM trainings ORDER BY id FOR UPDATE; FETCH c; DELETE FROM trainings WHERE CURRENT OF c; COMMIT',
    );
    await world.sql('SELECT remove(3)');
    await world.sql('INSERT INTO requests VALUES (4)');
    expect(await world.written()).toEqual([1, 2, 3, 4].map(id => `file:///data/${id}/`));
  });

  it('is not captured by a replica: default triggers do not fire while changes are applied', async () => {
    await world.sql('CREATE TABLE trainings (id int PRIMARY KEY); INSERT INTO trainings VALUES (1), (2)');
    await world.watch('trainings', 'file:///data/{id}/');
    await world
      .as('postgres')
      .sql('BEGIN; SET LOCAL session_replication_role = replica; DELETE FROM trainings WHERE id = 1; COMMIT');
    expect(await world.written()).toEqual([]);
    await expect(world.sql('SET LOCAL session_replication_role = replica')).rejects.toMatchObject({
      code: '42501',
    });
  });
});

onEveryMajor('foreign keys', world => {
  const parents = 'CREATE TABLE parents (id int PRIMARY KEY); INSERT INTO parents VALUES (1), (2)';
  const files = (...ids: number[]) => ids.map(id => `file:///data/${id}`);
  beforeEach(() => world.sql(parents));

  it('ON DELETE CASCADE is captured', async () => {
    await world.sql(
      `CREATE TABLE files (id int PRIMARY KEY, parent int REFERENCES parents ON DELETE CASCADE);
       INSERT INTO files VALUES (1, 1), (2, 1), (3, 2)`,
    );
    await world.watch('files', 'file:///data/{id}');
    await world.sql('DELETE FROM parents WHERE id = 1');
    expect(await world.written()).toEqual(files(1, 2));
    await world.sql('BEGIN; DELETE FROM parents; ROLLBACK');
    expect(await world.written()).toEqual(files(1, 2));
  });

  it('ON DELETE CASCADE down a tree that references itself is captured once a row', async () => {
    await world.sql(
      `CREATE TABLE nodes (id int PRIMARY KEY, above int REFERENCES nodes ON DELETE CASCADE);
       INSERT INTO nodes VALUES (1, NULL), (2, 1), (3, 1), (4, 2), (5, 4), (6, 5), (7, NULL)`,
    );
    await world.watch('nodes', 'file:///data/{id}');
    await world.sql('DELETE FROM nodes WHERE id = 1');
    expect(await world.written()).toEqual(files(1, 2, 3, 4, 5, 6));
  });

  it('ON DELETE CASCADE over a diamond is captured once a row', async () => {
    await world.sql(
      `CREATE TABLE left_side (id int PRIMARY KEY REFERENCES parents ON DELETE CASCADE);
       CREATE TABLE right_side (id int PRIMARY KEY REFERENCES parents ON DELETE CASCADE);
       CREATE TABLE files (id int PRIMARY KEY, l int REFERENCES left_side ON DELETE CASCADE, r int REFERENCES right_side ON DELETE CASCADE);
       INSERT INTO left_side VALUES (1); INSERT INTO right_side VALUES (1); INSERT INTO files VALUES (1, 1, 1), (2, 1, 1), (3, NULL, 1)`,
    );
    await world.watch('files', 'file:///data/{id}');
    await world.sql('DELETE FROM parents');
    expect(await world.written()).toEqual(files(1, 2, 3));
  });

  it('ON DELETE CASCADE to a partitioned table is captured once a row', async () => {
    await world.sql(
      `CREATE TABLE files (id int, parent int REFERENCES parents ON DELETE CASCADE) PARTITION BY RANGE (id);
       CREATE TABLE files_1 PARTITION OF files FOR VALUES FROM (1) TO (10);
       CREATE TABLE files_2 PARTITION OF files FOR VALUES FROM (10) TO (20) PARTITION BY LIST (id);
       CREATE TABLE files_2_10 PARTITION OF files_2 FOR VALUES IN (10);
       INSERT INTO files VALUES (1, 1), (2, 2), (10, 1)`,
    );
    await world.watch('files', 'file:///data/{id}');
    await world.sql('DELETE FROM parents WHERE id = 1');
    expect(await world.written()).toEqual(files(1, 10));
  });

  it('constraints that are deferred are captured, also what they delete at COMMIT', async () => {
    await world.sql(
      `CREATE TABLE files (id int PRIMARY KEY, parent int REFERENCES parents ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED);
       CREATE FUNCTION sweep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN DELETE FROM app.files WHERE parent IS NULL; RETURN NULL; END';
       CREATE CONSTRAINT TRIGGER sweep AFTER DELETE ON parents DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION sweep();
       INSERT INTO files VALUES (1, 1), (2, 2), (3, NULL)`,
    );
    await world.watch('files', 'file:///data/{id}');
    await world.sql('BEGIN; DELETE FROM parents WHERE id = 1; COMMIT');
    expect(await world.written()).toEqual(files(1, 3));
  });

  it('ON DELETE SET NULL of a column in the template ends the hold', async () => {
    await world.sql(
      `CREATE TABLE files (id int PRIMARY KEY, parent int REFERENCES parents ON DELETE SET NULL); INSERT INTO files VALUES (1, 1), (2, 2)`,
    );
    await world.watch('files', 'file:///data/{parent}/{id}');
    await world.sql('DELETE FROM parents WHERE id = 1');
    expect(await world.written()).toEqual(['file:///data/1/1']);
    expect(await world.verdict('file:///data/1/1')).toBe('free');
  });

  it('ON DELETE SET NULL and SET DEFAULT of a column in the condition end the hold', async () => {
    await world.sql(
      `INSERT INTO parents VALUES (0);
       CREATE TABLE files (id int PRIMARY KEY, parent int REFERENCES parents ON DELETE SET NULL,
                           other int DEFAULT 0 REFERENCES parents ON DELETE SET DEFAULT);
       INSERT INTO files VALUES (1, 1, 1), (2, 2, 2)`,
    );
    await world.watch('files', 'file:///data/{id}', { condition: 'parent IS NOT NULL' });
    await world.watch('files', 'file:///other/{id}', { condition: 'other <> 0' });
    await world.sql('DELETE FROM parents WHERE id = 1');
    expect(await world.written()).toEqual(['file:///data/1', 'file:///other/1']);
  });

  it('ON UPDATE CASCADE of a column in the template ends the old hold', async () => {
    await world.sql(
      `CREATE TABLE files (id int PRIMARY KEY, parent int REFERENCES parents ON UPDATE CASCADE); INSERT INTO files VALUES (1, 1), (2, 2)`,
    );
    await world.watch('files', 'file:///data/{parent}/{id}');
    await world.sql('UPDATE parents SET id = 9 WHERE id = 1');
    expect(await world.written()).toEqual(['file:///data/1/1']);
    expect(await world.verdict('file:///data/9/1')).toBe('kept');
  });
});
