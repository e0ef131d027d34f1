import { describe, expect, it } from 'vitest';
import { StorageError } from '../../src/handlers/contract.ts';
import type { Guard } from '../../src/reconciler/guard.ts';
import { createDatabase } from '../support/database.ts';
import { DELETED, fakeHandler } from '../support/fake-handler.ts';
import { countEvents, nextEvent, testReconciler, until } from '../support/reconciler.ts';

describe('a handler that throws', () => {
  it.each([
    ['an Error', new Error('boom'), 'retry', 'Error: boom'],
    ['a string', 'boom', 'retry', 'something was thrown that is no Error: boom'],
    ['nothing', undefined, 'retry', 'something was thrown that is no Error: undefined'],
    ['a transient StorageError', new StorageError('transient', 'busy'), 'retry', 'busy'],
    ['an unavailable store', new StorageError('unavailable', 'gone fishing'), 'blocked', 'gone fishing'],
  ])('%s fails its whole batch, each row by itself', async (_, thrown, reason, message) => {
    const db = await createDatabase();
    const handler = fakeHandler();
    handler.delete = async () => {
      throw thrown;
    };
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler] });
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ('fake://store/a'), ('fake://store/b')",
    );
    await reconciler.runOnce();
    const rows = await db.sql('SELECT put_back, last_error FROM afterdelete.pending_file_cleanup');
    expect(rows).toEqual([
      { put_back: reason, last_error: message },
      { put_back: reason, last_error: message },
    ]);
  });

  it('a permanent StorageError is dead at once', async () => {
    const db = await createDatabase();
    const handler = fakeHandler(() => {
      throw new StorageError('permanent', 'access denied');
    });
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler] });
    await db.sql("SELECT afterdelete.enqueue('fake://store/a')");
    await reconciler.runOnce();
    expect(await db.sql('SELECT attempt, last_error FROM afterdelete.dead_file_cleanup')).toEqual([
      { attempt: 1, last_error: 'access denied' },
    ]);
  });

  it('or gives too few results has told nothing: all is tried again', async () => {
    const db = await createDatabase();
    const handler = fakeHandler();
    handler.delete = async () => [DELETED];
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler] });
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ('fake://store/a'), ('fake://store/b')",
    );
    await reconciler.runOnce();
    const rows = await db.sql<{ last_error: string }>(
      'SELECT last_error FROM afterdelete.pending_file_cleanup',
    );
    expect(rows.map(row => row.last_error)).toEqual(
      Array(2).fill('Error: the handler of fake: gave 1 results for 2 cleanups'),
    );
  });

  it('an error that PostgreSQL cannot store is stored as far as it can', async () => {
    const db = await createDatabase();
    const handler = fakeHandler(() => {
      throw new Error(`nul \0, lone surrogate \ud800, and long: ${'x'.repeat(100_000)}`);
    });
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler] });
    await db.sql("SELECT afterdelete.enqueue('fake://store/a')");
    await reconciler.runOnce();
    const [row] = await db.sql<{ last_error: string }>(
      'SELECT last_error FROM afterdelete.pending_file_cleanup',
    );
    expect(row?.last_error).toContain('nul \ufffd, lone surrogate \ufffd');
    expect(row?.last_error.length).toBeLessThan(5_000);
  });
});

describe('a storage call that never returns', () => {
  it('counts as a store that is down, and frees its slot', async () => {
    const db = await createDatabase();
    let hang = true;
    const handler = fakeHandler(() => (hang ? new Promise(() => {}) : DELETED));
    const reconciler = testReconciler({
      databaseUrl: db.url,
      handlers: [handler],
      lease: 1_000,
      concurrency: 1,
    });
    const blocked = nextEvent(reconciler, 'cleanup_blocked');
    await db.sql("SELECT afterdelete.enqueue('fake://store/a')");
    await reconciler.start();
    expect((await blocked).error).toBe('the storage did not answer within 0.5 s');
    const done = nextEvent(reconciler, 'cleanup_done');
    hang = false;
    expect((await done).attempt).toBe(1);
  });
});

describe('a giant target', () => {
  it('yields when its slice is over, goes on later, and is counted once', async () => {
    const db = await createDatabase();
    const left = new Map([['fake://store/giant/', 5]]);
    const handler = fakeHandler(async ({ id, target }, context) => {
      if (!target.tree) return DELETED;
      let objects = 0;
      while ((left.get(target.text) ?? 0) > 0) {
        if (objects > 0 && context.shouldYield())
          return { outcome: 'yielded', objects, bytes: objects * 100 };
        left.set(target.text, (left.get(target.text) ?? 0) - 1);
        objects += 1;
        context.progress(id, { objects, bytes: objects * 100 });
        await until(() => context.shouldYield(), 'the end of the slice');
      }
      return { outcome: 'deleted', objects, bytes: objects * 100 };
    });
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler], slice: 5, concurrency: 1 });
    const all = countEvents(reconciler, 'cleanup_done', 2);
    const order: string[] = [];
    reconciler.events.on('cleanup_done', event => order.push(event.target));
    await db.sql(
      "SELECT afterdelete.enqueue('fake://store/giant/'), afterdelete.enqueue('fake://store/small')",
    );
    await reconciler.start();
    await all;
    expect(order).toEqual(['fake://store/small', 'fake://store/giant/']);
    expect(
      await db.sql(
        'SELECT attempt, objects_deleted, bytes_freed FROM afterdelete.done_file_cleanup WHERE objects_deleted = 5',
      ),
    ).toEqual([{ attempt: 1, objects_deleted: '5', bytes_freed: '500' }]);
  });
});

describe('the guard', () => {
  const guarded = (guard: Guard) => ({ handlers: [fakeHandler()], guard });

  it('keeps what is held, blocks what is held below, and lets the others go, once a batch', async () => {
    const db = await createDatabase();
    const asked: number[] = [];
    const options = guarded(async targets => {
      asked.push(targets.length);
      return targets.map(target => {
        if (target.endsWith('kept')) return { verdict: 'kept', reason: 'held by public.t (id=1)' };
        if (target.endsWith('blocked'))
          return { verdict: 'blocked', reason: 'public.t (id=2) holds something below' };
        return { verdict: 'go' };
      });
    });
    const reconciler = testReconciler({ databaseUrl: db.url, ...options });
    await db.sql(
      "INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ('fake://store/kept'), ('fake://store/blocked'), ('fake://store/free')",
    );
    await reconciler.runOnce();
    expect(asked).toEqual([3]);
    expect(options.handlers[0]?.seen).toEqual(['fake://store/free']);
    expect(
      await db.sql('SELECT target, outcome, note FROM afterdelete.done_file_cleanup ORDER BY id'),
    ).toEqual([
      { target: 'fake://store/kept', outcome: 'kept', note: 'held by public.t (id=1)' },
      { target: 'fake://store/free', outcome: 'deleted', note: null },
    ]);
    expect(await db.sql('SELECT reason, attempt, last_error FROM afterdelete.stuck')).toEqual([
      { reason: 'blocked', attempt: 0, last_error: 'public.t (id=2) holds something below' },
    ]);
  });

  it('that cannot be asked blocks: nothing is deleted unguarded', async () => {
    const db = await createDatabase();
    const options = guarded(async () => {
      throw new Error('relation is gone');
    });
    const reconciler = testReconciler({ databaseUrl: db.url, ...options });
    await db.sql("SELECT afterdelete.enqueue('fake://store/a')");
    await reconciler.runOnce();
    expect(options.handlers[0]?.seen).toEqual([]);
    expect(await db.sql('SELECT reason, last_error FROM afterdelete.stuck')).toEqual([
      { reason: 'blocked', last_error: 'the guard cannot be asked: relation is gone' },
    ]);
  });
});
