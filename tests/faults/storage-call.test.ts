/** A storage call never returns. Promised: the storage timeout ends it, its slot is free again, and everything else goes on. */
import { expect, it } from 'vitest';
import { createDatabase } from '../support/database.ts';
import { DELETED, fakeHandler } from '../support/fake-handler.ts';
import { countEvents, nextEvent, testReconciler, until } from '../support/reconciler.ts';

it('a storage call that never returns holds up neither its store, with a single slot, nor another; answered late, it counts for nothing', async () => {
  const db = await createDatabase();
  let answer = () => {};
  const handler = fakeHandler(({ target }) => {
    if (target.text !== 'fake://store/hangs' || handler.seen.length > 1) return DELETED;
    return new Promise(resolve => {
      answer = () => resolve({ ...DELETED, objects: 1_000 });
    });
  });
  handler.batchSize = 1;
  const reconciler = testReconciler({
    databaseUrl: db.url,
    roots: ['fake://store/', 'other://store/'],
    handlers: [handler, fakeHandler(undefined, 'other')],
    lease: 3_000,
    concurrency: 1,
  });
  const blocked = nextEvent(reconciler, 'cleanup_blocked');
  const free = nextEvent(reconciler, 'cleanup_done', ({ store }) => store === 'other://store');
  const all = countEvents(reconciler, 'cleanup_done', 4);
  await db.sql(`INSERT INTO afterdelete.pending_file_cleanup (target)
    VALUES ('fake://store/hangs'), ('fake://store/next'), ('fake://store/last'), ('other://store/free')`);
  await reconciler.start();
  await free;
  expect(handler.seen).toEqual(['fake://store/hangs']);
  expect((await blocked).error).toBe('the storage did not answer within 1.5 s');
  answer();
  await all;
  expect(handler.seen).toEqual(['hangs', 'next', 'last', 'hangs'].map(name => `fake://store/${name}`));
  await until(() => reconciler.inHand === 0, 'the end of all');
  expect(
    await db.sql(
      'SELECT target, attempt, objects_deleted::int AS objects FROM afterdelete.done_file_cleanup ORDER BY target',
    ),
  ).toEqual([
    { target: 'fake://store/hangs', attempt: 1, objects: 1 },
    { target: 'fake://store/last', attempt: 1, objects: 1 },
    { target: 'fake://store/next', attempt: 1, objects: 1 },
    { target: 'other://store/free', attempt: 1, objects: 1 },
  ]);
});
