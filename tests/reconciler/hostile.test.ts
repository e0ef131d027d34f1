/** Handlers, guards and listeners that break the rules, and answers that come when nobody waits for them any more. */
import { describe, expect, it } from 'vitest';
import type { Context, Result } from '../../src/handlers/contract.ts';
import { createReconciler } from '../../src/reconciler/reconciler.ts';
import { createDatabase } from '../support/database.ts';
import { DELETED, fakeHandler } from '../support/fake-handler.ts';
import { countEvents, nextEvent, testReconciler, until } from '../support/reconciler.ts';

describe('a handler of somebody else', () => {
  it('that gives a result which is none has told nothing: all is tried again', async () => {
    const db = await createDatabase();
    const handler = fakeHandler();
    const remove = handler.delete;
    let first = true;
    handler.delete = async (batch, context) => {
      if (!first) return await remove(batch, context);
      first = false;
      return batch.map((_, i) => (i === 0 ? DELETED : (undefined as unknown as Result)));
    };
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler] });
    await db.sql("SELECT afterdelete.enqueue('fake://store/' || i) FROM generate_series(1, 3) i");
    const retried = countEvents(reconciler, 'cleanup_retry', 3);
    const done = countEvents(reconciler, 'cleanup_done', 3);
    await reconciler.start();
    await retried;
    await done;
    expect(await db.sql('SELECT DISTINCT attempt FROM afterdelete.done_file_cleanup')).toEqual([
      { attempt: 2 },
    ]);
  });

  it('that gives an outcome nobody knows has told nothing either', async () => {
    const db = await createDatabase();
    let first = true;
    const handler = fakeHandler(() => {
      if (!first) return DELETED;
      first = false;
      return { outcome: 'removed', objects: 1, bytes: 1 } as unknown as Result;
    });
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler] });
    await db.sql("SELECT afterdelete.enqueue('fake://store/a')");
    const retried = nextEvent(reconciler, 'cleanup_retry');
    const done = nextEvent(reconciler, 'cleanup_done');
    await reconciler.start();
    expect((await retried).error).toContain("'removed'");
    await done;
  });
});

it('a handler that cannot be closed does not keep the daemon from closing the rest', async () => {
  const db = await createDatabase();
  const [broken, hanging] = [fakeHandler(), fakeHandler(undefined, 'other')];
  broken.close = async () => {
    throw new Error('closed already');
  };
  hanging.close = () => new Promise(() => {});
  const reconciler = testReconciler({ databaseUrl: db.url, handlers: [broken, hanging] });
  const [trouble, stopped] = [nextEvent(reconciler, 'trouble'), nextEvent(reconciler, 'stopped')];
  await reconciler.start();
  await reconciler.stop();
  expect((await trouble).doing).toContain('fake');
  await stopped;
  await until(
    async () =>
      (
        await db.sql(
          "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'afterdelete%'",
        )
      ).length === 0,
    'no connection left',
  );
});

it('a guard that gives a verdict which is none blocks: nothing is deleted unguarded', async () => {
  const db = await createDatabase();
  const handler = fakeHandler();
  const guard = async () => [undefined as never];
  const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], guard });
  await db.sql("SELECT afterdelete.enqueue('fake://store/a')");
  const blocked = nextEvent(reconciler, 'cleanup_blocked');
  await reconciler.start();
  await blocked;
  expect(handler.seen).toEqual([]);
});

it('what a run tells that has lost its lease is not counted for the run that took its row over', async () => {
  const db = await createDatabase();
  const runs: { id: string; context: Context; end: (result: Result) => void }[] = [];
  const handler = fakeHandler();
  handler.delete = async ([cleanup], context) => [
    await new Promise<Result>(end => runs.push({ id: cleanup?.id ?? '', context, end })),
  ];
  const reconciler = testReconciler({
    databaseUrl: db.url,
    handlers: [handler],
    // A call may last half of it; what it tells is stored after a quarter.
    lease: 12_000,
    shutdownGrace: 0,
  });
  await db.sql("SELECT afterdelete.enqueue('fake://store/giant/')");
  await reconciler.start();
  await until(() => runs.length === 1, 'the first run');
  const lost = nextEvent(reconciler, 'lease_lost');
  await db.sql("UPDATE afterdelete.worker SET lease_until = '-infinity'");
  await db.sql('SELECT afterdelete.reap()');
  await lost;
  await until(() => runs.length === 2, 'the second run');
  const [old, young] = runs;
  young?.context.progress(young.id, { objects: 1, bytes: 10 });
  old?.context.progress(old.id, { objects: 1_000, bytes: 10_000 });
  const progress = () =>
    db.sql<{ objects: number | null }>(
      'SELECT objects_deleted::int AS objects FROM afterdelete.running_file_cleanup',
    );
  await until(async () => (await progress())[0]?.objects != null, 'the stored progress');
  expect(await progress()).toEqual([{ objects: 1 }]);
});

it('an answer about others\u2019 roots that comes after the daemon has stopped is nobody\u2019s business', async () => {
  const db = await createDatabase();
  const reconciler = createReconciler({
    databaseUrl: db.url,
    handlers: [fakeHandler()],
    roots: ['fake://store/mine/'],
    shutdownGrace: 0,
  });
  await reconciler.start();
  let answer = (_: string[]) => {};
  const asked = new Promise<void>(resolve => {
    reconciler.outbox.liveRoots = () => {
      resolve();
      return new Promise(done => {
        answer = done;
      });
    };
  });
  await db.sql("SELECT afterdelete.enqueue('fake://store/elsewhere')");
  await asked;
  await reconciler.stop();
  const troubles: string[] = [];
  reconciler.events.on('trouble', ({ doing }) => troubles.push(doing));
  answer([]);
  // Longer than it takes to settle.
  await new Promise(resolve => setTimeout(resolve, 200));
  expect(troubles).toEqual([]);
});
