/** A table that is changed after it was declared: the application's statements go on, and a dead row says what to do. */
import type pg from 'pg';
import { beforeEach, expect, it } from 'vitest';
import { openDatabase } from '../../src/outbox/database.ts';
import { Operators } from '../../src/outbox/operators.ts';
import { onEveryMajor } from './world.ts';

onEveryMajor('a table that is altered', world => {
  let session: pg.Client;
  beforeEach(async () => {
    await world.sql(
      `CREATE TYPE mood AS ENUM ('happy', 'sad');
       CREATE TABLE files (id int PRIMARY KEY, path text, live bool DEFAULT true, note text, mood mood DEFAULT 'happy');
       INSERT INTO files SELECT i, 'p' || i FROM generate_series(1, 9) i`,
    );
    await world.watch('files', 'file:///data/{path}', { condition: 'live' });
    // A session that has the old plans of the trigger in its memory.
    session = await world.connect();
    await session.query("DELETE FROM files WHERE id = 9; UPDATE files SET path = 'x' WHERE id = 8");
    expect(await world.taken()).toEqual(['file:///data/p8', 'file:///data/p9']);
  });

  const broken: [string, string, string][] = [
    [
      'ALTER TABLE files RENAME path TO place',
      'the column path is not there any more (renamed or dropped?)',
      "'file:///data/{place}', condition => 'live'",
    ],
    [
      'ALTER TABLE files DROP COLUMN path',
      'the column path is not there any more (renamed or dropped?)',
      "'file:///data/{id}', condition => 'live'",
    ],
    [
      'ALTER TABLE files RENAME live TO alive',
      'the column live is not there any more (renamed or dropped?)',
      "'file:///data/{path}', condition => 'alive'",
    ],
    [
      'ALTER TABLE files DROP COLUMN live',
      'the column live is not there any more (renamed or dropped?)',
      "'file:///data/{path}'",
    ],
    [
      'ALTER TABLE files ALTER path TYPE bytea USING path::bytea',
      'the column path was text and is bytea',
      "'file:///data/{id}'",
    ],
    [
      'ALTER TABLE files ALTER path TYPE int USING id',
      'the column path was text and is integer',
      "'file:///data/{path}', condition => 'live'",
    ],
    [
      'ALTER TABLE files ALTER path TYPE varchar(40)',
      'the column path was text and is character varying',
      "'file:///data/{path}', condition => 'live'",
    ],
    [
      'ALTER TABLE files ALTER live DROP DEFAULT, ALTER live TYPE text USING live::text',
      'the column live was boolean and is text',
      "'file:///data/{path}', condition => 'live::bool'",
    ],
    [
      'ALTER TABLE files DROP COLUMN path, ADD COLUMN path date',
      'the column path was text and is date',
      "'file:///data/{id}'",
    ],
    [
      'ALTER TABLE files RENAME path TO place; ALTER TABLE files RENAME live TO path',
      'the column live is not there any more (renamed or dropped?); the column path was text and is boolean',
      "'file:///data/{place}', condition => 'path'",
    ],
  ];
  it.each(broken)('%s: each statement succeeds and leaves one dead row', async (change, why, anew) => {
    await world.sql(change);
    await session.query('UPDATE files SET note = $1 WHERE id < 3', ['x']);
    await session.query('DELETE FROM files WHERE id < 3');
    await session.query('DELETE FROM files WHERE id < 3');
    await session.query('BEGIN; TRUNCATE files');
    await session.query('INSERT INTO files (id) VALUES (1), (2); COMMIT');
    expect(await world.written()).toEqual([]);
    const dead = await world.dead();
    expect(dead.map(row => row.source)).toEqual([
      'UPDATE on app.files',
      'DELETE on app.files',
      'TRUNCATE on app.files',
    ]);
    for (const row of dead) {
      expect(row).toMatchObject({ target: 'file:///data/{path}', final: true });
      expect(row.last_error).toContain(`could not tell what its rows held, because ${why}.`);
      expect(row.last_error).toContain(
        "SELECT afterdelete.watch('app.files', 'file:///data/{path}', condition => 'live')",
      );
      expect(row.last_error).toContain("SELECT afterdelete.unwatch('app.files', 'file:///data/{path}')");
    }
    expect(dead[0]?.last_error).toContain('Rows: {"id": 1}, {"id": 2}');
    expect(dead[1]?.last_error).toContain('Rows: {"id": 1}, {"id": 2}');
    expect(
      (
        await world.sql<{ problem: string }>('SELECT problem FROM afterdelete.watch_problems() WHERE broken')
      )[0]?.problem,
    ).toContain(why);

    // Declared anew, as the dead row says.
    await world.sql("SELECT afterdelete.unwatch('app.files', 'file:///data/{path}')");
    await world.sql(`SELECT afterdelete.watch('app.files', ${anew})`);
    expect(await world.sql('SELECT problem FROM afterdelete.watch_problems() WHERE broken')).toEqual([]);
    await session.query('UPDATE files SET note = $1', ['y']);
    await session.query('DELETE FROM files');
    await session.query('TRUNCATE files');
    expect(await world.dead()).toHaveLength(3);
  });

  it('and declared anew under the same template goes on, in a session with the old plans too', async () => {
    await world.sql('ALTER TABLE files ALTER path TYPE varchar(50)');
    await session.query('DELETE FROM files WHERE id = 1');
    await world.watch('files', 'file:///data/{path}', { condition: 'live' });
    await session.query('DELETE FROM files WHERE id = 2');
    expect(await world.written()).toEqual(['file:///data/p2']);
    expect(await world.dead()).toHaveLength(1);
  });

  it.each([
    'ALTER TABLE files ADD COLUMN more int DEFAULT 5',
    'ALTER TABLE files DROP COLUMN note',
    'ALTER TABLE files DROP CONSTRAINT files_pkey',
    'ALTER TABLE files ALTER note TYPE varchar(7)',
    'ALTER TABLE files ALTER live SET NOT NULL, ALTER path SET STORAGE external, ALTER path SET STATISTICS 5',
    'ALTER TABLE files ADD CONSTRAINT c CHECK (id > 0) NOT VALID',
    'ALTER TABLE files ADD PRIMARY KEY USING INDEX new_key',
    'ALTER TABLE files SET UNLOGGED',
    'VACUUM FULL files',
    'CLUSTER files USING files_pkey',
    'REINDEX TABLE files',
    'ALTER TYPE mood RENAME TO feeling',
  ])('%s: goes on', async change => {
    if (change.includes('new_key'))
      await world.sql(
        'ALTER TABLE files DROP CONSTRAINT files_pkey; CREATE UNIQUE INDEX new_key ON files (id)',
      );
    await world.sql(change);
    await session.query("UPDATE files SET path = 'new' WHERE id = 1");
    await session.query('DELETE FROM files WHERE id = 2');
    await session.query('DELETE FROM files WHERE id > 3');
    await session.query('TRUNCATE files');
    expect(await world.written()).toEqual(
      ['new', 'p1', 'p2', 'p3', 'p4', 'p5', 'p6', 'p7', 'x'].map(name => `file:///data/${name}`),
    );
    expect(await world.dead()).toEqual([]);
  });

  it('by the name of its table or schema goes on, under the old name in source', async () => {
    await world.sql('ALTER TABLE files RENAME TO docs; CREATE TABLE files (id int, path text, live bool)');
    await session.query('DELETE FROM docs WHERE id = 1');
    await world.as('postgres').sql('CREATE SCHEMA elsewhere AUTHORIZATION keeper');
    await world.sql('ALTER TABLE docs SET SCHEMA elsewhere');
    await session.query('DELETE FROM elsewhere.docs WHERE id = 2');
    await session.query("UPDATE elsewhere.docs SET path = 'new' WHERE id = 3");
    await world.as('postgres').sql('ALTER SCHEMA elsewhere RENAME TO "some where"');
    await session.query('TRUNCATE "some where".docs');
    expect(await world.written()).toHaveLength(9);
    expect(await world.dead()).toEqual([]);
    await world.sql('INSERT INTO "some where".docs VALUES (1, \'held\')');
    expect(await world.verdict('file:///data/held')).toBe('kept');
    // Another table of the old name is not watched.
    await world.taken();
    await world.sql(
      "INSERT INTO files VALUES (1, 'a', true); DELETE FROM files; INSERT INTO files VALUES (1, 'a'); TRUNCATE files",
    );
    expect(await world.written()).toEqual([]);
    expect(await world.sql('SELECT afterdelete.unwatch(\'"some where".docs\')')).toEqual([{ unwatch: 1 }]);
  });

  it('by the name or a label of an enum in its template: a dead row, or the new label', async () => {
    await world.watch('files', 'file:///mood/{mood}');
    await world.sql("ALTER TYPE mood RENAME VALUE 'happy' TO 'glad'; ALTER TYPE mood ADD VALUE 'angry'");
    await session.query('DELETE FROM files WHERE id = 1');
    expect(await world.taken()).toEqual(['file:///data/p1', 'file:///mood/glad']);
    await world.sql('ALTER TYPE mood RENAME TO feeling');
    await session.query('DELETE FROM files WHERE id = 2');
    await session.query("UPDATE files SET mood = 'sad' WHERE id = 3");
    expect((await world.dead()).map(row => row.last_error)).toEqual([
      expect.stringContaining('the column mood was app.mood and is app.feeling'),
      expect.stringContaining('the column mood was app.mood and is app.feeling'),
    ]);
    await world.watch('files', 'file:///mood/{mood}');
    await world.taken();
    await session.query('DELETE FROM files WHERE id IN (3, 4)');
    expect(await world.written()).toEqual(
      ['p3', 'p4'].map(p => `file:///data/${p}`).concat('file:///mood/glad', 'file:///mood/sad'),
    );
  });

  it('by a label of an enum in its condition: a dead row, until it is declared anew', async () => {
    await world.watch('files', 'file:///mood/{id}', { condition: "mood = 'happy'" });
    await session.query('DELETE FROM files WHERE id = 1');
    expect(await world.taken()).toEqual(['file:///data/p1', 'file:///mood/1']);
    await world.sql("ALTER TYPE mood RENAME VALUE 'happy' TO 'glad'");
    const other = await world.connect();
    for (const client of [other, session])
      await client.query('DELETE FROM files WHERE id = (SELECT min(id) FROM files)');
    await world.sql("INSERT INTO files VALUES (20, 'q', true); TRUNCATE files");
    for (const row of await world.dead()) {
      expect(row.last_error).toContain('invalid input value for enum app.mood: "happy"');
    }
    expect((await world.written()).filter(target => target.includes('/data/'))).toHaveLength(8);
    await world.watch('files', 'file:///mood/{id}', { condition: "mood = 'glad'" });
    await world.taken();
    await session.query("INSERT INTO files VALUES (21, 'r', true, NULL, 'glad'); DELETE FROM files");
    expect(await world.written()).toEqual(['file:///data/r', 'file:///mood/21']);
  });

  it('on partitions: one dead row for each row, because there a trigger sees one at a time', async () => {
    await world.sql(
      `CREATE TABLE parts (id int PRIMARY KEY, path text) PARTITION BY RANGE (id);
       CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (1) TO (10); INSERT INTO parts SELECT i, 'p' || i FROM generate_series(1, 4) i`,
    );
    await world.watch('parts', 'file:///data/{path}');
    await session.query('DELETE FROM parts WHERE id = 4');
    await world.sql('ALTER TABLE parts RENAME path TO place');
    await session.query('DELETE FROM parts WHERE id < 3');
    await session.query('UPDATE parts SET id = 5 WHERE id = 3');
    await session.query('TRUNCATE parts');
    const dead = await world.dead();
    expect(dead.filter(row => row.source.startsWith('DELETE')).map(row => row.last_error)).toEqual([
      expect.stringContaining('Rows: {"id": 1}'),
      expect.stringContaining('Rows: {"id": 2}'),
    ]);
    expect(dead.filter(row => row.source.startsWith('TRUNCATE'))).toHaveLength(1);
    expect(await world.written()).toEqual(['file:///data/p4']);
  });

  it('while a transaction with an older snapshot is under way: that one goes on, too', async () => {
    await session.query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM pg_class LIMIT 1');
    await world.sql('ALTER TABLE files RENAME path TO place');
    await session.query('DELETE FROM files WHERE id = 1');
    await session.query('UPDATE files SET live = false WHERE id = 2');
    await session.query('COMMIT');
    expect(await world.written()).toEqual([]);
    expect(await world.dead()).toHaveLength(2);
  });

  // Subtransactions row by row would be a burden on the whole server, for a moment that is over with the next transaction.
  it('by partitions while a transaction with an older snapshot is under way: that one fails whole, and the next goes on', async () => {
    await world.sql(
      `CREATE TABLE parts (id int PRIMARY KEY, path text) PARTITION BY RANGE (id);
       CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (1) TO (10); INSERT INTO parts VALUES (1, 'a')`,
    );
    await world.watch('parts', 'file:///data/{path}');
    await session.query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1 FROM pg_class LIMIT 1');
    await world.sql('ALTER TABLE parts RENAME path TO place');
    await expect(session.query('DELETE FROM parts')).rejects.toMatchObject({ code: '42703' });
    await session.query('ROLLBACK');
    expect(await world.sql('SELECT id FROM parts')).toEqual([{ id: 1 }]);
    await session.query('BEGIN ISOLATION LEVEL REPEATABLE READ; DELETE FROM parts; COMMIT');
    expect(await world.dead()).toHaveLength(1);
  });

  it('of which no row is known by a key names the row itself', async () => {
    await world.sql('ALTER TABLE files DROP CONSTRAINT files_pkey, DROP COLUMN path');
    await session.query('DELETE FROM files WHERE id = 1');
    expect((await world.dead())[0]?.last_error).toContain(
      'Rows: {"id": 1, "live": true, "mood": "happy", "note": null}',
    );
  });

  it('cannot be retried: retry raises, retry --all passes it over, discard ends it', async () => {
    await world.sql('ALTER TABLE files DROP COLUMN path; DELETE FROM files WHERE id = 1');
    const [row] = await world.sql<{ id: string }>('SELECT id FROM afterdelete.dead_file_cleanup');
    await expect(world.sql('SELECT afterdelete.retry($1)', [row?.id])).rejects.toMatchObject({
      code: '55000',
      message: `cleanup ${row?.id} cannot be retried: nobody knows what it would have to delete`,
      hint: expect.stringContaining(`afterdelete.discard(${row?.id})`),
    });
    const kysely = openDatabase(world.url);
    try {
      expect(await new Operators(kysely).retryAll()).toBe(0);
    } finally {
      await kysely.destroy();
    }
    expect(await world.dead()).toHaveLength(1);
    expect(await world.sql('SELECT state, reason FROM afterdelete.stuck')).toEqual([
      { state: 'dead', reason: 'dead' },
    ]);
    expect(await world.sql("SELECT afterdelete.discard($1, 'by hand')", [row?.id])).toEqual([
      { discard: true },
    ]);
    expect(await world.dead()).toEqual([]);
  });
});
