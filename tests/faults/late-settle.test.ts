/** A settle arrives when its rows have been taken over. Promised: it changes nothing, and says so. */
import { expect, it } from 'vitest';
import { createBurst } from '../support/burst.ts';
import { createDatabase } from '../support/database.ts';
import { DELETED, fakeHandler } from '../support/fake-handler.ts';
import { countEvents, nextEvent, testReconciler, until } from '../support/reconciler.ts';

it('a settle that comes after the reaper leaves the rows with the worker that has them now; they are done once, by that one', async () => {
  const db = await createDatabase();
  const burst = createBurst(db, { holdAfter: 0 });
  let open = () => {};
  const gate = new Promise<void>(resolve => {
    open = resolve;
  });
  const slow = fakeHandler(async () => {
    await gate;
    return DELETED;
  });
  // With nothing more to claim and no heartbeat it does not find out before it settles.
  const late = testReconciler({ databaseUrl: db.url, handlers: [slow], prefetch: 5, name: 'late' });
  late.outbox.heartbeat = () => new Promise(() => {});
  const fenced: string[] = [];
  late.events.on('cleanup_fenced', ({ target }) => fenced.push(target));
  late.events.on('cleanup_done', ({ target }) => fenced.push(`done: ${target}`));
  await burst.write(5);
  await late.start();
  await until(() => slow.seen.length === 5, 'the storage calls');

  const heir = testReconciler({
    databaseUrl: db.url,
    handlers: [burst.handler],
    prefetch: 5,
    lease: 8_000,
    name: 'heir',
  });
  const reaped = nextEvent(heir, 'reaped');
  await db.sql("UPDATE afterdelete.worker SET lease_until = '-infinity' WHERE name = 'late'");
  await heir.start();
  expect(await reaped).toEqual({ workers: 1, moved: 5, died: 0 });
  await until(() => heir.inHand === 5, 'the rows in other hands');

  const told = countEvents(late, 'cleanup_fenced', 5);
  open();
  await told;
  const state = () =>
    db.sql(`SELECT (SELECT count(*)::int FROM afterdelete.running_file_cleanup r JOIN afterdelete.worker w ON w.id = r.worker WHERE w.name = 'heir') AS running,
      (SELECT count(*)::int FROM afterdelete.done_file_cleanup) AS done`);
  expect(await state()).toEqual([{ running: 5, done: 0 }]);
  burst.release();
  await burst.expectDone();
  expect(await db.sql('SELECT DISTINCT worker FROM afterdelete.done_file_cleanup')).toEqual([
    { worker: 'heir' },
  ]);
  expect(fenced.sort()).toEqual([1, 2, 3, 4, 5].map(n => `fake://store/${n}`));
});
