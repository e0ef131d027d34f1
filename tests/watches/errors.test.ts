/** Errors that are the application's: they reach it, nothing is half done, and row and file stay together. */
import type pg from 'pg';
import { beforeEach, expect, it } from 'vitest';
import { through, waitsForLock } from '../outbox/rows.ts';
import { onEveryMajor } from './world.ts';

onEveryMajor('an error for the application', world => {
  // One watch with a condition that could raise, so that its errors of data are caught, and one without.
  const both = async (relation: string) => {
    await world.watch(relation, 'file:///data/{path}', { condition: '10 / n > 0' });
    await world.watch(relation, 'file:///more/{path}');
  };
  beforeEach(async () => {
    await world.sql(
      "CREATE TABLE files (id int PRIMARY KEY, path text, n int DEFAULT 1); INSERT INTO files VALUES (1, 'a'), (2, 'b')",
    );
  });
  const untouched = async () => {
    expect(await world.sql('SELECT id FROM files ORDER BY id')).toEqual([{ id: 1 }, { id: 2 }]);
    expect(await world.written()).toEqual([]);
    expect(await world.dead()).toEqual([]);
  };
  const statements = ['DELETE FROM files', "UPDATE files SET path = 'new'", 'TRUNCATE files'];
  /** A session that keeps every INSERT into pending waiting. */
  const lockPending = async () => {
    const blocker = await world.connect();
    await blocker.query('BEGIN; LOCK TABLE afterdelete.pending_file_cleanup IN EXCLUSIVE MODE');
    return blocker;
  };
  const plain = { condition: 'true' };
  const kinds: [string, object][] = statements.flatMap(
    statement =>
      [
        [statement, plain],
        [statement, { condition: '10 / n > 0' }],
      ] as [string, object][],
  );

  it.each(kinds)('lock timeout in the trigger: %s, %o', async (statement, options) => {
    await world.watch('files', 'file:///data/{path}', options);
    const blocker = await lockPending();
    const session = await world.connect();
    await session.query("SET lock_timeout = '1ms'");
    await expect(session.query(statement)).rejects.toMatchObject({ code: '55P03' });
    await blocker.query('ROLLBACK');
    await untouched();
  });

  it.each(kinds)('a query that is cancelled in the trigger: %s, %o', async (statement, options) => {
    await world.watch('files', 'file:///data/{path}', options);
    const blocker = await lockPending();
    const session = await world.connect();
    const running = expect(session.query(statement)).rejects.toMatchObject({ code: '57014' });
    await waitsForLock(world, session);
    await world.sql('SELECT pg_cancel_backend($1)', [
      (session as unknown as { processID: number }).processID,
    ]);
    await running;
    await blocker.query('ROLLBACK');
    await untouched();
  });

  it.each(kinds.slice(0, 2))(
    'a session that is terminated in the trigger: %s, %o',
    async (statement, options) => {
      await world.watch('files', 'file:///data/{path}', options);
      const blocker = await lockPending();
      const session = await world.connect();
      const running = expect(session.query(statement)).rejects.toMatchObject({ code: '57P01' });
      await waitsForLock(world, session);
      await world.sql('SELECT pg_terminate_backend($1)', [
        (session as unknown as { processID: number }).processID,
      ]);
      await running;
      await blocker.query('ROLLBACK');
      await untouched();
    },
  );

  it.each(kinds.filter(([statement]) => !statement.startsWith('TRUNCATE')))(
    'a deadlock of two sessions, one in the trigger: %s, %o',
    async (statement, options) => {
      await world.sql('CREATE TABLE other (id int)');
      await world.watch('files', 'file:///data/{path}', options);
      const blocker = await lockPending();
      // Only the session in the trigger looks for the deadlock.
      await blocker.query('ROLLBACK');
      const one = await world.connect('postgres');
      await one.query(
        "SET deadlock_timeout = '1h'; BEGIN; LOCK TABLE afterdelete.pending_file_cleanup IN EXCLUSIVE MODE",
      );
      const two = await world.connect('postgres');
      await two.query("SET deadlock_timeout = '1ms'; BEGIN; LOCK TABLE other");
      const waiting = one.query('LOCK TABLE other');
      await waitsForLock(world, one);
      await expect(two.query(statement)).rejects.toMatchObject({ code: '40P01' });
      await two.query('ROLLBACK');
      await waiting;
      await one.query('ROLLBACK');
      await untouched();
    },
  );

  it.each(kinds)('no room left for what the trigger writes: %s, %o', async (statement, options) => {
    await world.watch('files', 'file:///data/{path}', options);
    await world.sql(
      `CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = '53100'; END$$;
       CREATE TRIGGER no_room BEFORE INSERT ON afterdelete.pending_file_cleanup FOR EACH ROW EXECUTE FUNCTION no_room()`,
    );
    await expect(world.sql(statement)).rejects.toMatchObject({ code: '53100' });
    await world.sql('DROP TRIGGER no_room ON afterdelete.pending_file_cleanup');
    await untouched();
  });

  it.each(['40001', '40P01', '53200', '54001', '55P03', '57014', '58030', 'XX000'])(
    'a condition that raises %s',
    async state => {
      await world.sql(
        `CREATE FUNCTION raises(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS
         $$BEGIN IF $1 > 1 THEN RAISE EXCEPTION 'not now' USING ERRCODE = '${state}'; END IF; RETURN true; END$$`,
      );
      await world.watch('files', 'file:///data/{path}', { condition: 'app.raises(id)' });
      for (const statement of statements)
        await expect(world.sql(statement)).rejects.toMatchObject({ code: state });
      await untouched();
    },
  );

  it.each(['REPEATABLE READ', 'SERIALIZABLE'])(
    'a serialization failure in %s leaves the row to be deleted again',
    async level => {
      await both('files');
      const session = await world.connect();
      await session.query(`BEGIN ISOLATION LEVEL ${level}; SELECT * FROM files`);
      await world.sql('UPDATE files SET n = 2 WHERE id = 1');
      await expect(session.query('DELETE FROM files')).rejects.toMatchObject({ code: '40001' });
      await session.query('ROLLBACK');
      await untouched();
      await session.query(`BEGIN ISOLATION LEVEL ${level}; DELETE FROM files; COMMIT`);
      expect(await world.written()).toEqual(
        ['data/a', 'data/b', 'more/a', 'more/b'].map(path => `file:///${path}`),
      );
    },
  );

  it('two sessions that delete each other’s rows: one is captured, the other fails whole', async () => {
    await both('files');
    const one = await world.connect('postgres');
    const two = await world.connect('postgres');
    await one.query("SET deadlock_timeout = '1h'; BEGIN; DELETE FROM files WHERE id = 1");
    await two.query("SET deadlock_timeout = '1ms'; BEGIN; DELETE FROM files WHERE id = 2");
    const waiting = one.query('DELETE FROM files WHERE id = 2');
    await waitsForLock(world, one);
    await expect(two.query('DELETE FROM files WHERE id = 1')).rejects.toMatchObject({ code: '40P01' });
    await two.query('ROLLBACK');
    await waiting;
    await one.query('COMMIT');
    expect(await world.written()).toEqual(
      ['data/a', 'data/b', 'more/a', 'more/b'].map(path => `file:///${path}`),
    );
  });

  it('a row that two sessions delete is captured once', async () => {
    await both('files');
    const one = await world.connect();
    const two = await world.connect();
    await one.query('BEGIN; DELETE FROM files WHERE id = 1');
    const waiting = two.query('DELETE FROM files WHERE id = 1');
    await waitsForLock(world, two);
    await one.query('COMMIT');
    expect((await waiting).rowCount).toBe(0);
    expect(await world.written()).toEqual(['file:///data/a', 'file:///more/a']);
  });

  it.each(['REPEATABLE READ', 'SERIALIZABLE'])(
    'a %s transaction older than the watch is told to run again, and loses nothing',
    async level => {
      const session = await world.connect();
      for (const statement of statements) {
        await session.query(`BEGIN ISOLATION LEVEL ${level}; SELECT 1 FROM pg_class LIMIT 1`);
        await world.watch('files', 'file:///data/{path}');
        await expect(session.query(statement)).rejects.toMatchObject({ code: '40001' });
        await session.query('ROLLBACK');
        await untouched();
        await world.sql("SELECT afterdelete.unwatch('app.files')");
      }
      await world.watch('files', 'file:///data/{path}');
      await through(session).sql(`DELETE FROM files`);
      expect(await world.written()).toEqual(['file:///data/a', 'file:///data/b']);
    },
  );

  it('a transaction under way when the watch is declared anew goes on', async () => {
    await both('files');
    const session: pg.Client = await world.connect();
    await session.query('BEGIN ISOLATION LEVEL REPEATABLE READ; DELETE FROM files WHERE id = 1');
    await world.watch('files', 'file:///more/{path}', { delay: '1 day' });
    await session.query('DELETE FROM files WHERE id = 2; COMMIT');
    expect(await world.written()).toEqual(
      ['data/a', 'data/b', 'more/a', 'more/b'].map(path => `file:///${path}`),
    );
  });
});
