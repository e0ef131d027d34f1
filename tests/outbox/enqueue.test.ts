/** The writing side for services in TypeScript. */
import pg from 'pg';
import { describe, expect, it, onTestFinished } from 'vitest';
import { confirm, enqueue, type Queryable } from '../../src/outbox/enqueue.ts';
import { InvalidTargetError } from '../../src/target.ts';
import { addWorker, claim, fileDatabase, openOutbox, put, states, value } from './rows.ts';

const db = fileDatabase();
const targets = () =>
  db.sql<{ id: string; target: string }>(
    'SELECT id, target FROM afterdelete.pending_file_cleanup ORDER BY id',
  );

/** Counts the statements, and runs none. */
function silent(): Queryable & { calls: number } {
  const writer = {
    calls: 0,
    query: async () => {
      writer.calls += 1;
      return { rows: [] };
    },
  };
  return writer;
}

describe('enqueue', () => {
  it('writes in a Kysely transaction, and with it nothing when it rolls back', async () => {
    const { kysely } = openOutbox(db.url);
    const id = await kysely
      .transaction()
      .execute(tx => enqueue(tx, 's3://b/1', { source: "it's $1", pruneParents: 0 }));
    await expect(
      kysely.transaction().execute(async tx => {
        await enqueue(tx, ['s3://b/2', 's3://b/3']);
        throw new Error('changed my mind');
      }),
    ).rejects.toThrow('changed my mind');
    expect(await targets()).toEqual([{ id, target: 's3://b/1' }]);
    expect(await value(db, 'SELECT source FROM afterdelete.pending_file_cleanup')).toBe("it's $1");
  });

  it('confirms in a Kysely transaction', async () => {
    const { kysely } = openOutbox(db.url);
    const id = await enqueue(kysely, 's3://b/upload', { delay: '1 hour' });
    await kysely.transaction().execute(tx => confirm(tx, id));
    expect(await states(db)).toMatchObject({ pending: 0, done: 1 });
  });

  it('writes with a pg client in its transaction', async () => {
    const client = await db.connect();
    await client.query('BEGIN');
    const id = await enqueue(client, 's3://b/1');
    expect(await targets()).toEqual([]);
    await client.query('COMMIT');
    expect(await targets()).toEqual([{ id, target: 's3://b/1' }]);
    expect(typeof id).toBe('string');
  });

  it('writes with a pg Pool', async () => {
    const pool = new pg.Pool({ connectionString: db.url, max: 1 });
    onTestFinished(() => pool.end());
    const id = await enqueue(pool, 's3://b/1');
    await confirm(pool, id);
    expect(await states(db)).toMatchObject({ pending: 0, done: 1 });
  });

  it('writes with any object whose query returns bare rows', async () => {
    const writer: Queryable = { query: (text, values) => db.sql(text, values) };
    const id = await enqueue(writer, 's3://b/1');
    await confirm(writer, BigInt(id));
    const next = await enqueue(writer, 's3://b/2');
    await confirm(writer, Number(next));
    expect(await states(db)).toMatchObject({ pending: 0, done: 2 });
  });

  it('says what it expected of a query method that returns something else', async () => {
    await expect(enqueue({ query: async () => undefined }, 's3://b/1')).rejects.toThrow(/\{ rows \}/);
    await expect(enqueue({ query: async () => ({ rowCount: 1 }) }, 's3://b/1')).rejects.toThrow(TypeError);
  });

  it('returns the ids of 10,000 targets in their order', async () => {
    const many = Array.from({ length: 10_000 }, (_, i) => `s3://b/${(i * 7919) % 10_000}`);
    const ids = await enqueue(await db.connect(), many);
    const rows = await targets();
    const byId = new Map(rows.map(row => [row.id, row.target]));
    expect(ids.map(id => byId.get(id))).toEqual(many);
    expect(rows.map(row => row.target)).toEqual(many);
  });

  it('returns a string for a string, an array for an array, and nothing for no targets', async () => {
    const client = await db.connect();
    expect(typeof (await enqueue(client, 's3://b/1'))).toBe('string');
    expect(await enqueue(client, ['s3://b/1'])).toHaveLength(1);
    const writer = silent();
    expect(await enqueue(writer, [])).toEqual([]);
    expect(writer.calls).toBe(0);
  });

  it.each([
    [250, '00:00:00.25'],
    [0, '00:00:00'],
    [86_400_000, '24:00:00'],
    ['2 hours', '02:00:00'],
    ['1 day', '1 day'],
  ])('takes the delay %j', async (delay, interval) => {
    const client = await db.connect();
    await client.query('BEGIN');
    const id = await enqueue(client, 's3://b/1', { delay });
    const { rows } = await client.query(
      'SELECT run_at = now() + $2::interval AS right FROM afterdelete.pending_file_cleanup WHERE id = $1',
      [id, interval],
    );
    expect(rows).toEqual([{ right: true }]);
    await client.query('ROLLBACK');
  });

  it('passes pruneParents and source on', async () => {
    await enqueue(await db.connect(), 'file:///a/b', { pruneParents: 32, source: 'why' });
    expect(await db.sql('SELECT prune_parents, source FROM afterdelete.pending_file_cleanup')).toEqual([
      { prune_parents: 32, source: 'why' },
    ]);
  });

  it('throws before anything is written when one target of many is invalid', async () => {
    const writer = silent();
    await expect(enqueue(writer, ['s3://b/1', 's3://b/../2'])).rejects.toThrow(InvalidTargetError);
    await expect(enqueue(writer, '')).rejects.toThrow(InvalidTargetError);
    expect(writer.calls).toBe(0);
  });

  it.each([
    { pruneParents: 33 },
    { pruneParents: -1 },
    { pruneParents: 1.5 },
    { pruneParents: Number.NaN },
    { delay: -1 },
    { delay: Number.NaN },
    { delay: Number.POSITIVE_INFINITY },
  ])('throws before anything is written for %j', async options => {
    const writer = silent();
    await expect(enqueue(writer, 'file:///a/b', options)).rejects.toThrow(RangeError);
    expect(writer.calls).toBe(0);
  });

  it('writes nothing when the database refuses: a delay that is none, parents of an object', async () => {
    await expect(enqueue(await db.connect(), 's3://b/1', { delay: 'soon' })).rejects.toMatchObject({
      code: '22007',
    });
    await expect(
      enqueue(await db.connect(), ['file:///a', 's3://b/1'], { pruneParents: 1 }),
    ).rejects.toMatchObject({
      constraint: 'prune_parents_is_for_files_only',
    });
    expect(await targets()).toEqual([]);
  });
});

describe('confirm', () => {
  it('throws when the reservation is no longer pending', async () => {
    const id = await put(db);
    await claim(db, await addWorker(db));
    await expect(confirm(await db.connect(), id)).rejects.toThrow(/no longer pending/);
  });

  it.each(['', 'abc', '1; DROP SCHEMA afterdelete'])('throws for the id %j', async id => {
    await expect(confirm(await db.connect(), id)).rejects.toMatchObject({ code: '22P02' });
  });
});
