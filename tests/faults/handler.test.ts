/**
 * A handler of somebody's throws anything, at any time. Promised: it is an attempt of its batch, with a message, and nothing
 * else: the daemon lives, other stores go on, and the rows are done when it has come to its senses.
 */
import { describe, expect, it, onTestFinished } from 'vitest';
import { type Handler, type Receipt, type Result, StorageError } from '../../src/handlers/contract.ts';
import { createDatabase } from '../support/database.ts';
import { DELETED, type FakeHandler, fakeHandler } from '../support/fake-handler.ts';
import { countEvents, nextEvent, testReconciler, until } from '../support/reconciler.ts';

const ENQUEUE =
  "INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ('fake://store/a'), ('fake://store/b'), ('other://store/c')";

/**
 * A daemon with two stores, of which the handler of one does it wrong the first time: that is an attempt of both its rows,
 * and in the end all three are done. Returns what the rows were told.
 */
async function play(wrong: FakeHandler['delete']): Promise<string[]> {
  const db = await createDatabase();
  const handler = fakeHandler();
  const right = handler.delete;
  let first = true;
  // Not async: what it does in its own tick is the handler's, too.
  handler.delete = (batch, context) => {
    if (!first) return right(batch, context);
    first = false;
    return wrong(batch, context);
  };
  const reconciler = testReconciler({
    databaseUrl: db.url,
    roots: ['fake://store/', 'other://store/'],
    handlers: [handler, fakeHandler(undefined, 'other')],
  });
  const errors: string[] = [];
  reconciler.events.on('cleanup_retry', ({ error }) => errors.push(error));
  const done = countEvents(reconciler, 'cleanup_done', 3);
  await db.sql(ENQUEUE);
  await reconciler.start();
  await done;
  expect(
    await db.sql('SELECT target, attempt, outcome FROM afterdelete.done_file_cleanup ORDER BY target'),
  ).toEqual([
    { target: 'fake://store/a', attempt: 2, outcome: 'deleted' },
    { target: 'fake://store/b', attempt: 2, outcome: 'deleted' },
    { target: 'other://store/c', attempt: 1, outcome: 'deleted' },
  ]);
  return errors;
}

const withGetter = (name: string) =>
  Object.defineProperty(new Error(), name, {
    get() {
      throw new Error('a trap');
    },
  });
const revoked = () => {
  const { proxy, revoke } = Proxy.revocable({}, {});
  revoke();
  return proxy;
};
const UNTELLABLE = /^something was thrown that cannot be described$/;

describe('a handler that throws', () => {
  it.each<[string, () => unknown, RegExp]>([
    ['null', () => null, /no Error: null$/],
    ['a string', () => 'boom', /no Error: boom$/],
    ['a symbol', () => Symbol('boom'), /no Error: Symbol\(boom\)$/],
    ['a frozen object', () => Object.freeze({ why: 'boom' }), /no Error: /],
    ['a frozen Error', () => Object.freeze(new Error('boom')), /^Error: boom$/],
    ['an object without a prototype', () => Object.create(null), UNTELLABLE],
    ['an Error whose message throws', () => withGetter('message'), UNTELLABLE],
    ['an Error whose name throws', () => withGetter('name'), UNTELLABLE],
    [
      'an Error whose message is no text',
      () => Object.assign(new Error(), { message: Symbol('boom') }),
      UNTELLABLE,
    ],
    [
      'a StorageError whose message is no text',
      () => Object.assign(new StorageError('transient', ''), { message: 7 }),
      /^7$/,
    ],
    ['a StorageError of no known kind', () => new StorageError('odd' as never, 'boom'), /boom/],
    ['something that cannot be looked at', revoked, UNTELLABLE],
  ])('%s', async (_, thrown, message) => {
    const errors = await play(async () => {
      throw thrown();
    });
    expect(errors).toEqual([expect.stringMatching(message), expect.stringMatching(message)]);
  });

  it('before it gives a promise', async () => {
    const errors = await play(() => {
      throw new Error('boom');
    });
    expect(errors).toEqual(['Error: boom', 'Error: boom']);
  });

  it('within a storage call, before that gives a promise', async () => {
    const errors = await play(async (_, context) => [
      await context.call(() => {
        throw null;
      }),
    ]);
    expect(errors).toEqual(Array(2).fill('something was thrown that is no Error: null'));
  });
});

describe('a handler that gives', () => {
  it.each<[string, unknown]>([
    ['nothing', undefined],
    ['null', null],
    ['results that cannot be looked at', [revoked(), revoked()]],
    ['results that throw', Array(2).fill(withGetter('outcome'))],
    ['a note that is no text', Array(2).fill({ ...DELETED, note: 7 })],
    ['fewer objects than none', Array(2).fill({ ...DELETED, objects: -1 })],
  ])('%s has told nothing: all is tried again', async (_, results) => {
    const errors = await play(async () => results as Result[]);
    expect(errors).toEqual([expect.any(String), expect.any(String)]);
  });

  it('empties its batch, and gives as many results', async () => {
    await play(async batch =>
      (batch as unknown[])
        .splice(0)
        .map(() => DELETED)
        .slice(0, 0),
    );
  });

  it('a progress that is none is not recorded', async () => {
    const progress = { objects: Number.NaN, bytes: 'many' } as unknown as Receipt;
    const errors = await play(async ([first], context) => {
      context.progress(first?.id ?? '', progress);
      throw new Error('boom');
    });
    expect(errors).toEqual(['Error: boom', 'Error: boom']);
  });
});

it('a storage call that fails when its handler has long resolved is nobody’s error', async () => {
  const db = await createDatabase();
  const fails: (() => void)[] = [];
  const handler = fakeHandler();
  handler.delete = async (batch, context) => {
    // As handlers do that go on with the first answer of several.
    void context.call(() => new Promise((_, reject) => fails.push(() => reject(new Error('too late')))));
    await until(() => fails.length > 0, 'the call');
    return batch.map(() => DELETED);
  };
  const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler] });
  const rejections: unknown[] = [];
  const onRejection = (reason: unknown) => rejections.push(reason);
  process.on('unhandledRejection', onRejection);
  onTestFinished(() => void process.off('unhandledRejection', onRejection));
  const done = nextEvent(reconciler, 'cleanup_done');
  await db.sql("SELECT afterdelete.enqueue('fake://store/a')");
  await reconciler.start();
  await done;
  for (const fail of fails) fail();
  // Node tells of it when the promises have had their turn.
  await new Promise(resolve => setImmediate(resolve));
  await new Promise(resolve => setImmediate(resolve));
  expect(rejections).toEqual([]);
});

describe('what cannot be described', () => {
  const throwing = async () => {
    throw Object.create(null);
  };

  it('thrown by a guard blocks, as all that it throws', async () => {
    const db = await createDatabase();
    const handler = fakeHandler();
    let broken = true;
    const reconciler = testReconciler({
      databaseUrl: db.url,
      handlers: [handler],
      guard: async targets => (broken ? await throwing() : targets.map(() => ({ verdict: 'go' }))),
    });
    const blocked = nextEvent(reconciler, 'cleanup_blocked');
    const done = nextEvent(reconciler, 'cleanup_done');
    await db.sql("SELECT afterdelete.enqueue('fake://store/a')");
    await reconciler.start();
    expect((await blocked).error).toBe(
      'the guard cannot be asked: something was thrown that cannot be described',
    );
    expect(handler.seen).toEqual([]);
    broken = false;
    await done;
  });

  it('thrown by what identifies a root pauses its store, until it is well', async () => {
    const db = await createDatabase();
    const handler: Handler = fakeHandler();
    let broken = true;
    handler.identify = async () => (broken ? await throwing() : '00000000-0000-4000-8000-000000000000');
    const reconciler = testReconciler({ databaseUrl: db.url, handlers: [handler] });
    const paused = nextEvent(reconciler, 'store_paused');
    const done = nextEvent(reconciler, 'cleanup_done');
    await db.sql("SELECT afterdelete.enqueue('fake://store/a')");
    await reconciler.start();
    expect(await paused).toMatchObject({
      by: 'root',
      reason: 'something was thrown that cannot be described',
    });
    broken = false;
    await done;
  });
});
