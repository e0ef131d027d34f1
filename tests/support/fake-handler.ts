/** A handler that deletes nothing: tests decide what it answers, and see what it was asked. */
import type { Cleanup, Context, Handler, Result } from '../../src/handlers/contract.ts';

export type Answer = (cleanup: Cleanup, context: Context) => Result | Promise<Result>;

export interface FakeHandler extends Omit<Handler, 'batchSize'> {
  batchSize: number;
  /** What became of each cleanup, in order of the calls. */
  readonly seen: string[];
  /** The sizes of the batches it was called with. */
  readonly batches: number[];
  answer: Answer;
}

export const DELETED: Result = { outcome: 'deleted', objects: 1, bytes: 10 };

/** Every storage call is one `context.call`, as in a real handler. */
export function fakeHandler(answer: Answer = () => DELETED, scheme = 'fake'): FakeHandler {
  const handler: FakeHandler = {
    scheme,
    batchSize: 1000,
    seen: [],
    batches: [],
    answer,
    delete: async (batch, context) => {
      handler.batches.push(batch.length);
      return await Promise.all(
        batch.map(cleanup =>
          context.call(async () => {
            handler.seen.push(cleanup.target.text);
            return await handler.answer(cleanup, context);
          }),
        ),
      );
    },
    inspect: async () => ({ exists: true, objects: 1, bytes: 10 }),
    probe: async () => {},
  };
  return handler;
}
