/** What the daemon does with what the holders say: kept, blocked until they are gone, and never pruned away. */
import { existsSync, mkdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { createFileHandler } from '../../src/handlers/file/index.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { createDisk } from '../support/disk.ts';
import { fakeHandler } from '../support/fake-handler.ts';
import { nextEvent, testReconciler, until } from '../support/reconciler.ts';

const TRAININGS = 'CREATE TABLE trainings (id text PRIMARY KEY)';

async function withTrainings(template: (disk: string) => string) {
  const db = await createDatabase();
  const disk = createDisk();
  await db.sql(TRAININGS);
  await db.sql("SELECT afterdelete.watch('trainings', $1)", [template(disk.root)]);
  const reconciler = testReconciler({
    databaseUrl: db.url,
    roots: [disk.root],
    handlers: [createFileHandler()],
  });
  return { db, disk, reconciler };
}

const done = (db: TestDatabase) =>
  db.sql<{ outcome: string; note: string | null }>(
    'SELECT outcome, note FROM afterdelete.done_file_cleanup ORDER BY id',
  );
const stuck = (db: TestDatabase) =>
  db.sql<{ reason: string; last_error: string }>('SELECT reason, last_error FROM afterdelete.stuck');

describe('a target that a live row holds', () => {
  it('exactly is kept, and the audit trail says who holds it', async () => {
    const { db, disk, reconciler } = await withTrainings(root => `${root}{id}/`);
    disk.write('t1/model.bin');
    await db.sql("INSERT INTO trainings VALUES ('t1'), ('t2')");
    await db.sql('SELECT afterdelete.enqueue($1)', [`${disk.root}t1/`]);
    await reconciler.runOnce();
    expect(await done(db)).toEqual([{ outcome: 'kept', note: 'public.trainings {"id": "t1"} holds it' }]);
    expect(existsSync(disk.at('t1/model.bin'))).toBe(true);
  });

  it('and that another row let go of is kept: one of two rows with the same path is deleted', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    await db.sql('CREATE TABLE datasets (id int PRIMARY KEY, path text)');
    await db.sql("SELECT afterdelete.watch('datasets', 'file://{+path}')");
    const target = disk.write('shared.bin');
    await db.sql('INSERT INTO datasets VALUES (1, $1), (2, $1)', [disk.at('shared.bin')]);
    const reconciler = testReconciler({
      databaseUrl: db.url,
      roots: [disk.root],
      handlers: [createFileHandler()],
    });
    await db.sql('DELETE FROM datasets WHERE id = 1');
    await reconciler.runOnce();
    expect(await done(db)).toEqual([{ outcome: 'kept', note: 'public.datasets {"id": 2} holds it' }]);
    expect(target).toBe(`file://${disk.at('shared.bin')}`);
    await db.sql('DELETE FROM datasets WHERE id = 2');
    await reconciler.runOnce();
    expect((await done(db)).map(row => row.outcome)).toEqual(['kept', 'deleted']);
    expect(existsSync(disk.at('shared.bin'))).toBe(false);
  });

  it('below a tree blocks the tree, in stuck with who holds it; once that is gone, the tree goes', async () => {
    const { db, disk, reconciler } = await withTrainings(root => `${root}all/{id}/`);
    disk.write('all/t1/model.bin');
    await db.sql("INSERT INTO trainings VALUES ('t1')");
    await db.sql('SELECT afterdelete.enqueue($1)', [`${disk.root}all/`]);
    await reconciler.runOnce();
    expect(await stuck(db)).toEqual([
      { reason: 'blocked', last_error: `public.trainings {"id": "t1"} holds ${disk.root}all/t1/ below it` },
    ]);
    expect(existsSync(disk.at('all/t1/model.bin'))).toBe(true);
    expect(await db.sql('SELECT attempt FROM afterdelete.pending_file_cleanup')).toEqual([{ attempt: 0 }]);
    await db.sql('DELETE FROM trainings');
    await db.sql('SELECT afterdelete.retry(id) FROM afterdelete.pending_file_cleanup');
    await reconciler.runOnce();
    await until(async () => (await done(db)).length === 2, 'the tree and what was in it');
    expect(existsSync(disk.at('all'))).toBe(false);
    expect(await stuck(db)).toEqual([]);
  });

  it('above it does not matter: a checkpoint goes while its training lives', async () => {
    const { db, disk, reconciler } = await withTrainings(root => `${root}{id}/`);
    const target = disk.write('t1/checkpoints/c1.bin');
    disk.write('t1/log.txt');
    await db.sql("INSERT INTO trainings VALUES ('t1')");
    await db.sql('SELECT afterdelete.enqueue($1)', [target]);
    await reconciler.runOnce();
    expect((await done(db)).map(row => row.outcome)).toEqual(['deleted']);
    expect(existsSync(disk.at('t1/log.txt'))).toBe(true);
  });
});

describe('pruning', () => {
  it('stops at a directory that a live row holds, and goes on where none does', async () => {
    const { db, disk, reconciler } = await withTrainings(root => `${root}{id}/`);
    const targets = ['t1', 't2'].map(id => disk.write(`${id}/checkpoints/layer/model.bin`));
    await db.sql("INSERT INTO trainings VALUES ('t1')");
    await db.sql('SELECT afterdelete.enqueue(t, prune_parents => 5) FROM unnest($1::text[]) t', [targets]);
    await reconciler.runOnce();
    expect((await done(db)).map(row => row.outcome)).toEqual(['deleted', 'deleted']);
    expect([existsSync(disk.at('t1')), existsSync(disk.at('t1/checkpoints'))]).toEqual([true, false]);
    expect(existsSync(disk.at('t2'))).toBe(false);
    expect(existsSync(disk.path)).toBe(true);
  });

  it('leaves a directory in which something is held that is not there yet', async () => {
    const { db, disk, reconciler } = await withTrainings(root => `${root}all/{id}/`);
    const target = disk.write('all/old.bin');
    await db.sql("INSERT INTO trainings VALUES ('to come')");
    await db.sql('SELECT afterdelete.enqueue($1, prune_parents => 1)', [target]);
    await reconciler.runOnce();
    expect((await done(db)).map(row => row.outcome)).toEqual(['deleted']);
    expect(existsSync(disk.at('all'))).toBe(true);
  });

  it('is asked about together with the targets, once a batch', async () => {
    const { db, disk } = await withTrainings(root => `${root}{id}/`);
    const asked: (readonly string[])[] = [];
    const reconciler = testReconciler({
      databaseUrl: db.url,
      roots: [disk.root],
      handlers: [createFileHandler()],
      guard: async targets => {
        asked.push(targets);
        return targets.map(() => ({ verdict: 'go' }));
      },
    });
    await db.sql('SELECT afterdelete.enqueue(t, prune_parents => 2) FROM unnest($1::text[]) t', [
      ['a/b/1', 'a/b/2', 'a/c/3'].map(name => disk.write(name)),
    ]);
    await reconciler.runOnce();
    expect(asked).toEqual([
      ['a/b/1', 'a/b/2', 'a/c/3', 'a/b/', 'a/', 'a/c/'].map(name => `${disk.root}${name}`),
    ]);
  });
});

describe('the guard is never blind', () => {
  async function withTwoTables() {
    const db = await createDatabase();
    await db.sql('CREATE TABLE broken (id text PRIMARY KEY); CREATE TABLE sound (id text PRIMARY KEY)');
    await db.sql("SELECT afterdelete.watch('broken', 'fake://store/broken/{id}/x')");
    await db.sql("SELECT afterdelete.watch('sound', 'fake://store/sound/{id}/x')");
    const handler = fakeHandler();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler] });
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target) SELECT 'fake://store/' || t FROM unnest($1::text[]) t",
      [['broken/1/x', 'broken/1/', 'broken/', 'broken/1/y', 'broken/1/x/y', 'brokenness/1/x', 'sound/1/x']],
    );
    return { db, handler, reconciler };
  }
  const FREE = ['broken/1/y', 'broken/1/x/y', 'brokenness/1/x', 'sound/1/x'].map(
    name => `fake://store/${name}`,
  );

  it.each([
    [
      'a renamed column',
      'ALTER TABLE broken RENAME id TO number',
      /column t\.id does not exist.*SELECT afterdelete\.watch\('public\.broken'/,
    ],
    ['a dropped table', 'DROP TABLE broken', /cannot be asked.*SELECT afterdelete\.unwatch\(\d+, /],
  ])(
    '%s blocks what its template could render, and nothing else, until it is removed',
    async (_, change, message) => {
      const { db, handler, reconciler } = await withTwoTables();
      await db.sql(change);
      await reconciler.runOnce();
      expect([...handler.seen].sort()).toEqual([...FREE].sort());
      const rows = await stuck(db);
      expect(rows.map(row => row.reason)).toEqual(['blocked', 'blocked', 'blocked']);
      for (const row of rows) expect(row.last_error).toMatch(message);
      // As the message says it.
      const [, remedy] = /remove it: (SELECT .*)$/.exec(rows[0]?.last_error ?? '') ?? [];
      await db.sql(remedy as string);
      await db.sql('SELECT afterdelete.retry(id) FROM afterdelete.pending_file_cleanup');
      await reconciler.runOnce();
      await until(async () => (await done(db)).length === 7, 'all cleanups');
      expect(await stuck(db)).toEqual([]);
    },
  );

  it('row-level security that hides rows is an error, not an answer', async () => {
    const { db, handler, reconciler } = await withTwoTables();
    const owner = `guard_owner_${process.pid}_${db.name}`;
    // Superusers are above row-level security: the schema's functions are given to somebody who is not.
    await db.sql(`CREATE ROLE ${owner}; GRANT ALL ON ALL TABLES IN SCHEMA public TO ${owner};
      GRANT USAGE ON SCHEMA afterdelete TO ${owner}; GRANT ALL ON ALL TABLES IN SCHEMA afterdelete TO ${owner};
      GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA afterdelete TO ${owner}; ALTER FUNCTION afterdelete.ask_holders(text[], boolean) OWNER TO ${owner}`);
    try {
      await db.sql("INSERT INTO broken VALUES ('1'); ALTER TABLE broken ENABLE ROW LEVEL SECURITY");
      await reconciler.runOnce();
      expect([...handler.seen].sort()).toEqual([...FREE].sort());
      for (const row of await stuck(db)) expect(row.last_error).toMatch(/row-level security/);
    } finally {
      await db.sql(
        `ALTER FUNCTION afterdelete.ask_holders(text[], boolean) OWNER TO CURRENT_USER; DROP OWNED BY ${owner}; DROP ROLE ${owner}`,
      );
    }
  });

  it('a table that somebody locks for long blocks its own watch, and no other', async () => {
    const { db, handler, reconciler } = await withTwoTables();
    const other = await db.connect();
    await other.query('BEGIN; LOCK TABLE broken');
    await reconciler.runOnce();
    expect([...handler.seen].sort()).toEqual([...FREE].sort());
    for (const row of await stuck(db))
      expect(row.last_error).toMatch(
        /cannot be asked: public\.broken is locked just now \(canceling statement due to lock timeout\)/,
      );
    await other.query('ROLLBACK');
  });

  it('a watch that is declared while a daemon runs counts at once', async () => {
    const db = await createDatabase();
    await db.sql(TRAININGS);
    const handler = fakeHandler();
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler] });
    await reconciler.start();
    await db.sql(
      "INSERT INTO trainings VALUES ('a'); SELECT afterdelete.watch('trainings', 'fake://store/{id}')",
    );
    const ended = nextEvent(reconciler, 'cleanup_done');
    await db.sql("SELECT afterdelete.enqueue('fake://store/a')");
    expect((await ended).outcome).toBe('kept');
    expect(handler.seen).toEqual([]);
  });
});

describe('is_held and holders', () => {
  it('tell who holds a target, exactly or below it, whatever host and slash a file: target has', async () => {
    const db = await createDatabase();
    await db.sql(TRAININGS);
    await db.sql("SELECT afterdelete.watch('trainings', 'file://gpu-01/data/{id}/')");
    await db.sql("INSERT INTO trainings VALUES ('t1'), ('t10')");
    const held = async (target: string) =>
      (await db.sql<{ held: boolean }>('SELECT afterdelete.is_held($1) AS held', [target]))[0]?.held;
    for (const target of ['file:///data/t1', 'file:///data/t1/', 'file://other/data/t1/'])
      expect(await held(target)).toBe(true);
    for (const target of ['file:///data/t', 'file:///data/t1/x', 'file:///data/', 's3://data/t1/'])
      expect(await held(target)).toBe(false);
    expect(
      await db.sql(
        "SELECT relation::text, key, held FROM afterdelete.holders('file:///data/') ORDER BY held",
      ),
    ).toEqual([
      { relation: 'trainings', key: { id: 't1' }, held: 'file://gpu-01/data/t1/' },
      { relation: 'trainings', key: { id: 't10' }, held: 'file://gpu-01/data/t10/' },
    ]);
    expect(await db.sql("SELECT FROM afterdelete.holders('file:///data/t1')")).toHaveLength(1);
  });

  it('raise for what is no target, and where a watch cannot be asked', async () => {
    const db = await createDatabase();
    await db.sql(TRAININGS);
    await db.sql("SELECT afterdelete.watch('trainings', 'file:///data/{id}/')");
    await expect(db.sql("SELECT afterdelete.is_held('data/t1')")).rejects.toThrow(
      "not a target: 'data/t1' (target_has_a_scheme)",
    );
    await expect(db.sql('SELECT afterdelete.is_held(NULL)')).rejects.toThrow('not a target: NULL');
    await db.sql('ALTER TABLE trainings RENAME id TO number');
    await expect(db.sql("SELECT afterdelete.is_held('file:///data/t1/')")).rejects.toThrow(/cannot be asked/);
    expect(await db.sql("SELECT afterdelete.is_held('file:///elsewhere/t1/') AS held")).toEqual([
      { held: false },
    ]);
  });
});

it('a directory that was emptied by hand is no reason to prune above the root', async () => {
  const { db, disk, reconciler } = await withTrainings(root => `${root}{id}/`);
  mkdirSync(disk.at('t1'));
  await db.sql('SELECT afterdelete.enqueue($1, prune_parents => 32)', [`${disk.root}t1/gone.bin`]);
  await reconciler.runOnce();
  expect((await done(db)).map(row => row.outcome)).toEqual(['absent']);
  expect([existsSync(disk.at('t1')), existsSync(disk.path)]).toEqual([false, true]);
});

it('is asked in READ COMMITTED, whatever the default of the database is', async () => {
  const { db, disk, reconciler } = await withTrainings(root => `${root}{id}/`);
  await db.sql(`ALTER DATABASE ${db.name} SET default_transaction_isolation = 'repeatable read'`);
  disk.write('t1/model.bin');
  const client = await db.connect();
  await client.query("INSERT INTO trainings VALUES ('t1')");
  await expect(client.query("SELECT afterdelete.is_held('file:///x/y')")).rejects.toThrow(
    'the holders can be asked in READ COMMITTED only, not in REPEATABLE READ',
  );
  await client.query('SELECT afterdelete.enqueue($1)', [`${disk.root}t1/`]);
  await reconciler.runOnce();
  expect((await done(db)).map(row => row.outcome)).toEqual(['kept']);
});

it('waits for no second table when one is locked, so that a migration is no victim of a deadlock', async () => {
  const db = await createDatabase();
  await db.sql(`CREATE TABLE a (id text PRIMARY KEY); CREATE TABLE b (id text PRIMARY KEY); CREATE TABLE c (id text PRIMARY KEY);
    SELECT afterdelete.watch(t, 'fake://store/{id}/' || t) FROM unnest(ARRAY['a', 'b', 'c']::regclass[]) t`);
  const migration = await db.connect();
  await migration.query('BEGIN; LOCK TABLE b, c');
  let seen = false;
  // It waits but for a moment: it asks until it has been seen to.
  const ask = async () => {
    for (;;) {
      const rows = await db.sql<{ reason: string }>(
        "SELECT reason FROM afterdelete.ask_holders(ARRAY['fake://store/1/b', 'fake://store/1/c']), LATERAL (SELECT problem) AS p (reason)",
      );
      if (seen) return rows;
    }
  };
  const asked = ask();
  await until(
    async () =>
      (
        await db.sql(
          "SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessShareLock' AND relation = 'b'::regclass",
        )
      ).length > 0,
    'the guard to wait',
  ).finally(() => {
    seen = true;
  });
  await migration.query('ALTER TABLE a ADD COLUMN x int');
  const reasons = (await asked).map(row => row.reason);
  expect(reasons).toEqual([
    expect.stringMatching(/b is locked just now \(canceling statement due to lock timeout\)/),
    expect.stringMatching(/c is locked just now \(could not obtain lock/),
  ]);
  await migration.query('COMMIT');
});

it.each([
  [[], null],
  [[''], ''],
  [['', 'a'], ''],
  [['file:///a/b'], 'file:///a/b'],
  [['file:///a/b', 'file:///a/b'], 'file:///a/b'],
  [['file:///a/b', 'file:///a/'], 'file:///a/'],
  [['file:///a/bc', 'file:///a/bd', 'file:///a/bb'], 'file:///a/b'],
  // The same first byte, and not the same character.
  [['x/é', 'x/è'], 'x/'],
  [['é', 'ü'], ''],
  [['s3://b/1', 'file:///a'], ''],
])('%j begin with %j in common', async (texts, beginning) => {
  const db = await createDatabase();
  expect(await db.sql('SELECT afterdelete.common_beginning($1::text[]) AS beginning', [texts])).toEqual([
    { beginning },
  ]);
});
