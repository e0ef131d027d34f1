/** watch() and unwatch() as often as one likes: what they make, take over and leave behind, and which locks they take. */
import { beforeEach, expect, it } from 'vitest';
import { waitsForLock } from '../outbox/rows.ts';
import { onEveryMajor, rowsOf } from './world.ts';

onEveryMajor('watch()', world => {
  beforeEach(async () => {
    await world.sql(
      "CREATE TABLE files (id int PRIMARY KEY, path text, n int DEFAULT 1); INSERT INTO files VALUES (1, 'a'), (2, 'b')",
    );
  });
  const made = () =>
    world.sql<{ triggers: string[]; functions: string[]; watches: number }>(
      `SELECT (SELECT array_agg(g.tgrelid::regclass || ' ' || g.tgname ORDER BY 1) FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid WHERE p.proname ~ '^capture_[0-9]+$' AND NOT g.tgisinternal) AS triggers,
              (SELECT array_agg(p.proname::text ORDER BY 1) FROM pg_proc p WHERE p.proname ~ '^capture_[0-9]+$') AS functions,
              (SELECT count(*)::int FROM afterdelete.watched) AS watches`,
    );

  it('twice makes nothing twice', async () => {
    const first = await world.watch('files', 'file:///data/{path}', { condition: 'n > 0' });
    const before = await made();
    expect(before[0]?.triggers).toHaveLength(3);
    expect(await world.watch('files', 'file:///data/{path}', { condition: 'n > 0' })).toBe(first);
    expect(await made()).toEqual(before);
    await world.sql('DELETE FROM files');
    expect(await world.written()).toEqual(['file:///data/a', 'file:///data/b']);
  });

  it('again takes over condition, delay and prune_parents, for sessions under way too', async () => {
    const first = await world.watch('files', 'file:///data/{path}');
    const session = await world.connect();
    await session.query("UPDATE files SET path = 'c' WHERE id = 1");
    expect(await world.taken()).toEqual(['file:///data/a']);
    expect(
      await world.watch('files', 'file:///data/{path}', {
        condition: 'id > 1',
        delay: '1 day',
        prune_parents: 3,
      }),
    ).toBe(first);
    await session.query('DELETE FROM files');
    expect(
      await world.sql(
        "SELECT target::text, prune_parents, run_at > now() + interval '23 hours' AS later FROM afterdelete.pending_file_cleanup",
      ),
    ).toEqual([{ target: 'file:///data/b', prune_parents: 3, later: true }]);
    expect(await world.sql('SELECT condition, columns FROM afterdelete.watched')).toEqual([
      { condition: '(id > 1)', columns: ['id', 'path'] },
    ]);
    await world.watch('files', 'file:///data/{path}');
    expect(await world.sql('SELECT condition, columns FROM afterdelete.watched')).toEqual([
      { condition: 'true', columns: ['path'] },
    ]);
  });

  it.each(['file:///data/{path}', 'file:///data/{id}'])(
    'again takes no lock that waits for writers: %s',
    async template => {
      await world.sql(
        'CREATE TABLE parts (id int, path text) PARTITION BY LIST (id); CREATE TABLE parts_d PARTITION OF parts DEFAULT',
      );
      for (const table of ['files', 'parts']) await world.watch(table, template);
      const writer = await world.connect();
      await writer.query("BEGIN; INSERT INTO files VALUES (3, 'c'); INSERT INTO parts VALUES (3, 'c')");
      const session = await world.connect();
      await session.query("SET lock_timeout = '1ms'");
      for (const table of ['files', 'parts']) {
        await session.query(
          `SELECT afterdelete.watch('${table}', '${template}', condition => 'id > 1', delay => '1 day')`,
        );
      }
      // The first time it makes triggers, which it cannot beside a writer.
      await expect(
        session.query("SELECT afterdelete.watch('files', 'file:///other/{id}')"),
      ).rejects.toMatchObject({ code: '55P03' });
      expect(await world.sql("SELECT FROM afterdelete.watched WHERE template LIKE '%other%'")).toEqual([]);
      await writer.query('COMMIT');
    },
  );

  it('waits for writers under way, and misses nothing that they do', async () => {
    const writer = await world.connect();
    await writer.query('BEGIN; DELETE FROM files WHERE id = 1');
    const session = await world.connect();
    const declared = session.query("SELECT afterdelete.watch('files', 'file:///data/{path}')");
    await waitsForLock(world, session);
    await writer.query('COMMIT');
    await declared;
    await writer.query('DELETE FROM files WHERE id = 2');
    expect(await world.written()).toEqual(['file:///data/b']);
  });

  it('that is rolled back leaves nothing', async () => {
    await world.sql(
      "BEGIN; SELECT afterdelete.watch('files', 'file:///data/{path}', condition => 'n > 0'); DELETE FROM files WHERE id = 1; ROLLBACK",
    );
    expect(await made()).toEqual([{ triggers: null, functions: null, watches: 0 }]);
    await world.sql('DELETE FROM files');
    expect(await world.written()).toEqual([]);
  });

  it('in one transaction with the table it is for captures at once', async () => {
    await world.sql(
      `BEGIN; CREATE TABLE fresh (id int); SELECT afterdelete.watch('fresh', 'file:///fresh/{id}'); INSERT INTO fresh VALUES (1); DELETE FROM fresh; COMMIT`,
    );
    expect(await world.written()).toEqual(['file:///fresh/1']);
  });

  it('by two sessions at once makes one watch', async () => {
    const one = await world.connect();
    const two = await world.connect();
    await one.query("BEGIN; SELECT afterdelete.watch('files', 'file:///data/{path}')");
    const second = two.query("SELECT afterdelete.watch('files', 'file:///data/{path}') AS id");
    await waitsForLock(world, two);
    await one.query('COMMIT');
    await second;
    expect((await made())[0]).toMatchObject({ watches: 1, functions: [expect.any(String)] });
    await world.sql('DELETE FROM files WHERE id = 1');
    expect(await world.written()).toEqual(['file:///data/a']);
  });

  it('by a superuser, who is not the schema owner, makes functions of the schema owner', async () => {
    const rows = await world
      .as('postgres')
      .sql("SELECT afterdelete.watch('app.files', 'file:///data/{path}', condition => 'n > 0')");
    expect(rows).toHaveLength(1);
    expect(
      await world.sql(
        "SELECT proowner::regrole::text AS owner, prosecdef, proconfig FROM pg_proc WHERE proname ~ '^capture_[0-9]+$'",
      ),
    ).toEqual([{ owner: 'keeper', prosecdef: true, proconfig: ['search_path=pg_catalog, pg_temp'] }]);
    expect(await world.sql('SELECT declared_by FROM afterdelete.watched')).toEqual([
      { declared_by: 'postgres' },
    ]);
    // A superuser cannot lend the schema owner rights that it has not.
    await world.as('postgres').sql('CREATE TABLE app.mine (id int)');
    await expect(
      world.as('postgres').sql("SELECT afterdelete.watch('app.mine', 'file:///data/{id}')"),
    ).rejects.toThrow('keeper, who owns the schema afterdelete, has no SELECT, TRIGGER on app.mine');
  });

  it('for a table that was dropped and made anew under its name is a new watch, and nothing is left of the old one', async () => {
    const old = await world.watch('files', 'file:///data/{path}');
    await world.sql(
      "DROP TABLE files; CREATE TABLE files (id int PRIMARY KEY, path text); INSERT INTO files VALUES (1, 'a')",
    );
    expect(await world.sql('SELECT problem FROM afterdelete.watch_problems()')).toEqual([
      { problem: 'the table is gone; the guard blocks all that it could have held' },
    ]);
    expect(await world.watch('files', 'file:///data/{path}')).not.toBe(old);
    expect((await made())[0]).toMatchObject({ watches: 1, functions: [expect.stringMatching(/^capture_/)] });
    await world.sql('DELETE FROM files');
    expect(await world.written()).toEqual(['file:///data/a']);
    expect(await world.sql('SELECT problem FROM afterdelete.watch_problems() WHERE broken')).toEqual([]);
  });

  it.each([
    ['DISABLE', 'is disabled'],
    ['ENABLE REPLICA', 'fires for a replica only'],
  ])(
    'cannot mend a trigger that the owner of the table set to %s, but check finds it',
    async (setting, problem) => {
      const watch = await world.watch('files', 'file:///data/{path}');
      await world.sql(
        `ALTER TABLE files ${setting} TRIGGER afterdelete_${watch}_delete; DELETE FROM files WHERE id = 1`,
      );
      expect(await world.written()).toEqual([]);
      const [found] = await world.sql<{ problem: string; remedy: string }>(
        'SELECT problem, remedy FROM afterdelete.watch_problems() WHERE broken',
      );
      expect(found?.problem).toBe(`not captured, because a trigger of app.files ${problem}`);
      await world.sql(found?.remedy as string);
      await world.sql('DELETE FROM files');
      expect(await world.written()).toEqual(['file:///data/b']);
    },
  );

  it('mends a trigger that somebody dropped', async () => {
    const watch = await world.watch('files', 'file:///data/{path}');
    await world.sql(`DROP TRIGGER afterdelete_${watch}_delete ON files`);
    expect(await world.sql('SELECT problem FROM afterdelete.watch_problems() WHERE broken')).toEqual([
      { problem: 'not captured, because there is no trigger: DELETE of app.files' },
    ]);
    await world.watch('files', 'file:///data/{path}');
    await world.sql('DELETE FROM files');
    expect(await world.written()).toEqual(['file:///data/a', 'file:///data/b']);
  });
});

onEveryMajor('unwatch()', world => {
  beforeEach(async () => {
    await world.sql(
      "CREATE TABLE files (id int PRIMARY KEY, path text); INSERT INTO files VALUES (1, 'a'), (2, 'b')",
    );
    await world.watch('files', 'file:///data/{path}');
    await world.watch('files', 'file:///more/{id}');
  });
  const left = () =>
    world.sql(
      `SELECT (SELECT count(*)::int FROM pg_trigger WHERE tgname LIKE 'afterdelete\\_%') AS triggers,
              (SELECT count(*)::int FROM pg_proc WHERE proname ~ '^capture_[0-9]+$') AS functions, (SELECT count(*)::int FROM afterdelete.watched) AS watches`,
    );

  it('of one template leaves the others', async () => {
    expect(await world.sql("SELECT afterdelete.unwatch('files', 'file:///data/{path}')")).toEqual([
      { unwatch: 1 },
    ]);
    expect(await left()).toEqual([{ triggers: 3, functions: 1, watches: 1 }]);
    await world.sql('DELETE FROM files WHERE id = 1');
    expect(await world.written()).toEqual(['file:///more/1']);
    expect(await world.verdict('file:///data/b')).toBe('free');
    expect(await world.verdict('file:///more/2')).toBe('kept');
  });

  it('of a table removes all, with triggers and functions, and twice is no error', async () => {
    const session = await world.connect();
    await session.query('DELETE FROM files WHERE id = 1');
    await world.taken();
    expect(await world.sql("SELECT afterdelete.unwatch('files')")).toEqual([{ unwatch: 2 }]);
    expect(await world.sql("SELECT afterdelete.unwatch('files')")).toEqual([{ unwatch: 0 }]);
    expect(await world.sql("SELECT afterdelete.unwatch('files', 'file:///data/{path}')")).toEqual([
      { unwatch: 0 },
    ]);
    expect(await left()).toEqual([{ triggers: 0, functions: 0, watches: 0 }]);
    await session.query("UPDATE files SET path = 'new'; DELETE FROM files; TRUNCATE files");
    expect(await world.written()).toEqual([]);
    expect(await world.verdict('file:///data/a')).toBe('free');
  });

  it('of a partitioned table removes what its partitions have, of which somebody else is the owner too', async () => {
    await world.sql(
      'CREATE TABLE parts (id int) PARTITION BY LIST (id); CREATE TABLE parts_d PARTITION OF parts DEFAULT; INSERT INTO parts VALUES (1)',
    );
    await world.watch('parts', 'file:///parts/{id}');
    await world
      .as('postgres')
      .sql('ALTER TABLE app.parts OWNER TO maker; ALTER TABLE app.parts_d OWNER TO maker');
    expect(await world.sql("SELECT afterdelete.unwatch('parts')")).toEqual([{ unwatch: 1 }]);
    expect(await left()).toEqual([{ triggers: 6, functions: 2, watches: 2 }]);
    await world
      .as('maker')
      .sql('DELETE FROM app.parts; CREATE TABLE app.parts_1 PARTITION OF app.parts FOR VALUES IN (1)')
      .catch(error => expect(error.code).toBe('42501'));
    expect(await world.written()).toEqual([]);
  });

  it('of a table that is gone goes by its number', async () => {
    await world.sql('DROP TABLE files');
    const remedies = await world.sql<{ remedy: string }>('SELECT remedy FROM afterdelete.watch_problems()');
    expect(remedies).toHaveLength(2);
    for (const { remedy } of remedies)
      expect(rowsOf(await (await world.connect()).query(remedy))).toEqual([{ unwatch: 1 }]);
    expect(await left()).toEqual([{ triggers: 0, functions: 0, watches: 0 }]);
  });

  it('of all at once, with the schema, leaves tables as they were before', async () => {
    const session = await world.connect();
    await session.query('BEGIN; DROP SCHEMA afterdelete CASCADE; DELETE FROM files WHERE id = 1');
    const triggers = "SELECT FROM pg_trigger WHERE tgrelid = 'files'::regclass AND NOT tgisinternal";
    expect(rowsOf(await session.query(triggers))).toEqual([]);
    await session.query('ROLLBACK');
    expect(await left()).toEqual([{ triggers: 6, functions: 2, watches: 2 }]);
  });

  it('that is rolled back removes nothing', async () => {
    await world.sql("BEGIN; SELECT afterdelete.unwatch('files'); ROLLBACK; DELETE FROM files WHERE id = 1");
    expect(await world.written()).toEqual(['file:///data/a', 'file:///more/1']);
  });

  it('leaves alone what is written already', async () => {
    await world.sql("DELETE FROM files WHERE id = 1; SELECT afterdelete.unwatch('files')");
    expect(await world.written()).toEqual(['file:///data/a', 'file:///more/1']);
  });

  it('of NULL, and of a table that does not exist', async () => {
    expect(await world.sql('SELECT afterdelete.unwatch(NULL)')).toEqual([{ unwatch: 0 }]);
    await expect(world.sql("SELECT afterdelete.unwatch('nothing')")).rejects.toMatchObject({ code: '42P01' });
    expect(await left()).toEqual([{ triggers: 6, functions: 2, watches: 2 }]);
  });
});
