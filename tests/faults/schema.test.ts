/**
 * A newer version migrates the schema while older daemons run. Promised: they claim nothing more, say so and what to do,
 * hand back what they have in hand, and end; the command with 1.
 */
import { expect, it } from 'vitest';
import { startDaemon } from '../support/daemon.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { createDisk } from '../support/disk.ts';
import { DELETED, fakeHandler } from '../support/fake-handler.ts';
import { nextEvent, testReconciler, until } from '../support/reconciler.ts';

const MIGRATED = "INSERT INTO afterdelete.migration (name, checksum) VALUES ('99_future', 'x')";
const WHAT_TO_DO = /99_future.*run the version that applied it, or a newer one/;
const ENQUEUE = "SELECT afterdelete.enqueue('fake://store/' || i) FROM generate_series(1, $1::int) i";
/** Functions whose names begin so have another signature, as far as an older daemon can see. */
const change = (name: string) =>
  `DO $do$ DECLARE f regprocedure; BEGIN
     FOR f IN SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'afterdelete'::regnamespace AND starts_with(proname, '${name}') LOOP
       EXECUTE format('ALTER FUNCTION %s RENAME TO %I', f, 'future_' || (SELECT proname FROM pg_proc WHERE oid = f));
     END LOOP;
   END $do$`;

/** How many rows are where, and how many of those that wait have never been touched. */
const counts = async (db: TestDatabase) =>
  (
    await db.sql(`SELECT (SELECT count(*)::int FROM afterdelete.pending_file_cleanup) AS pending,
      (SELECT count(*)::int FROM afterdelete.pending_file_cleanup WHERE attempt = 0 AND lost = 0 AND put_back IS NULL) AS untouched,
      (SELECT count(*)::int FROM afterdelete.running_file_cleanup) AS running, (SELECT count(*)::int FROM afterdelete.done_file_cleanup) AS done,
      (SELECT count(*)::int FROM afterdelete.worker) AS workers`)
  )[0];

it('a daemon whose schema a newer version has migrated says what to do, and exits with 1; rows wait for the newer one', async () => {
  const db = await createDatabase();
  const disk = createDisk();
  const daemon = startDaemon({ databaseUrl: db.url, roots: [disk.root], env: { AFTERDELETE_LEASE: '2s' } });
  await daemon.waitFor('started');
  await db.sql(MIGRATED);
  expect(await daemon.waitFor('schema_changed')).toMatchObject({
    level: 60,
    reason: expect.stringMatching(WHAT_TO_DO),
  });
  expect(await daemon.exit).toEqual({ code: 1, signal: null });
  await db.sql('SELECT afterdelete.enqueue($1)', [disk.write('a')]);
  expect(daemon.lines.map(line => line.event)).toEqual(expect.arrayContaining(['stopping', 'stopped']));
  expect(await counts(db)).toEqual({ pending: 1, untouched: 1, running: 0, done: 0, workers: 0 });
  // Started again, it refuses as it always did.
  const again = startDaemon({ databaseUrl: db.url, roots: [disk.root] });
  expect(await again.exit).toEqual({ code: 1, signal: null });
  expect(again.stderr).toMatch(WHAT_TO_DO);
});

it('a reconciler ends what runs, hands back what it has in hand, and stops by itself', async () => {
  const db = await createDatabase();
  let open = () => {};
  const gate = new Promise<void>(resolve => {
    open = resolve;
  });
  const handler = fakeHandler(async () => {
    await gate;
    return DELETED;
  });
  handler.batchSize = 1;
  const reconciler = testReconciler({
    databaseUrl: db.url,
    handlers: [handler],
    concurrency: 1,
    // The call that is held may last half of it; a heartbeat comes after a quarter.
    lease: 16_000,
  });
  const [changed, stopped] = [nextEvent(reconciler, 'schema_changed'), nextEvent(reconciler, 'stopped')];
  await db.sql(ENQUEUE, [10]);
  await reconciler.start();
  await until(() => handler.seen.length === 1, 'a storage call');
  await db.sql(MIGRATED);
  expect((await changed).reason).toMatch(WHAT_TO_DO);
  await until(() => reconciler.inHand === 1, 'the others handed back');
  open();
  expect(await stopped).toEqual({ handedBack: 9 });
  expect(handler.seen).toHaveLength(1);
  expect(await counts(db)).toEqual({ pending: 9, untouched: 9, running: 0, done: 1, workers: 0 });
});

it('a claim that fails because its function has changed is enough: no heartbeat need come', async () => {
  const db = await createDatabase();
  const handler = fakeHandler();
  const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], lease: 600_000 });
  const listening = nextEvent(reconciler, 'listen_restored');
  const [changed, stopped] = [nextEvent(reconciler, 'schema_changed'), nextEvent(reconciler, 'stopped')];
  await reconciler.start();
  await listening;
  await db.sql(`BEGIN; ${change('claim')}; ${MIGRATED}; COMMIT`);
  await db.sql(ENQUEUE, [1]);
  expect((await changed).reason).toMatch(WHAT_TO_DO);
  await stopped;
  expect(handler.seen).toEqual([]);
  expect(await counts(db)).toEqual({ pending: 1, untouched: 1, running: 0, done: 0, workers: 0 });
});

it('a daemon that cannot even hand back ends all the same; its rows go back when its lease ends', async () => {
  const db = await createDatabase();
  const handler = fakeHandler(() => new Promise(() => {}));
  const reconciler = testReconciler({
    databaseUrl: db.url,
    handlers: [handler],
    lease: 1_000,
    shutdownGrace: 0,
  });
  const stopped = nextEvent(reconciler, 'stopped');
  await db.sql(ENQUEUE, [3]);
  await reconciler.start();
  await until(() => handler.seen.length === 3, 'the storage calls');
  await db.sql(
    `BEGIN; ${['claim', 'settle', 'heartbeat', 'deregister', 'progress'].map(change).join('; ')}; ${MIGRATED}; COMMIT`,
  );
  await stopped;
  await until(async () => {
    await db.sql('SELECT afterdelete.reap()');
    return (await db.sql('SELECT FROM afterdelete.worker')).length === 0;
  }, 'the end of its lease');
  expect(await counts(db)).toEqual({ pending: 3, untouched: 0, running: 0, done: 0, workers: 0 });
});

it('a function that is missing though no other version has been there is trouble, and the daemon goes on when it is back', async () => {
  const db = await createDatabase();
  const reconciler = testReconciler({ databaseUrl: db.url, handlers: [fakeHandler()], lease: 1_000 });
  const changes: unknown[] = [];
  reconciler.events.on('schema_changed', event => changes.push(event));
  await reconciler.start();
  const trouble = nextEvent(reconciler, 'trouble', ({ doing }) => doing.startsWith('claiming'));
  await db.sql(
    'ALTER FUNCTION afterdelete.claim(bigint, text[], integer[], text[], bigint[]) RENAME TO claim_away',
  );
  await db.sql(ENQUEUE, [1]);
  await trouble;
  const done = nextEvent(reconciler, 'cleanup_done');
  await db.sql(
    'ALTER FUNCTION afterdelete.claim_away(bigint, text[], integer[], text[], bigint[]) RENAME TO claim',
  );
  await done;
  expect(changes).toEqual([]);
});
