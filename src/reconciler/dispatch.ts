/** The way of a batch: ask the guard once, call the handler once, and have one result for each cleanup, whatever happens. */
import {
  type Cleanup,
  type Context,
  type Handler,
  NOTHING,
  type Receipt,
  type Result,
  resultOf,
} from '../handlers/contract.ts';
import type { Guard, Verdict } from './guard.ts';

/** What became of a cleanup: a handler's result, or `kept`, because a live row holds exactly this target. */
export type Outcome = Result | (Receipt & { readonly outcome: 'kept'; readonly note: string });

export interface DispatchOptions {
  readonly guard: Guard;
  readonly handler: Handler;
  readonly context: Context;
  /** How far a cleanup had come when its handler threw. */
  readonly progressOf: (id: string) => Receipt;
  readonly onTrouble: (doing: string, error: unknown) => void;
}

export interface Dispatched {
  /** One for each cleanup, in order. */
  readonly outcomes: readonly Outcome[];
  /** Those that the handler gave: they tell of the store itself. */
  readonly handled: readonly Result[];
  /** Time in the handler, in ms. */
  readonly ms: number;
}

export async function dispatch(batch: readonly Cleanup[], options: DispatchOptions): Promise<Dispatched> {
  const verdicts = await askGuard(batch, options);
  const free = batch.filter((_, i) => verdicts[i]?.verdict === 'go');
  const started = performance.now();
  const handled = free.length === 0 ? [] : await callHandler(free, options);
  const ms = performance.now() - started;
  let next = 0;
  const outcomes = verdicts.map((verdict): Outcome => {
    if (verdict.verdict === 'go') return handled[next++] as Result;
    if (verdict.verdict === 'kept') return { ...NOTHING, outcome: 'kept', note: verdict.reason };
    return { ...NOTHING, outcome: 'blocked', error: verdict.reason };
  });
  return { outcomes, handled, ms };
}

/** What cannot be asked about is blocked: nothing is deleted unguarded. */
async function askGuard(
  batch: readonly Cleanup[],
  { guard, onTrouble }: DispatchOptions,
): Promise<readonly Verdict[]> {
  try {
    const verdicts = await guard(batch);
    if (verdicts.length === batch.length) return verdicts;
    throw new Error(`it gave ${verdicts.length} verdicts for ${batch.length} cleanups`);
  } catch (error) {
    onTrouble(`asking the guard about ${batch.length} cleanups`, error);
    const reason = `the guard cannot be asked: ${error instanceof Error ? error.message : String(error)}`;
    return batch.map(() => ({ verdict: 'blocked', reason }));
  }
}

async function callHandler(
  batch: readonly Cleanup[],
  { handler, context, progressOf }: DispatchOptions,
): Promise<readonly Result[]> {
  try {
    const results = await handler.delete(batch, context);
    if (results.length === batch.length) return results;
    throw new Error(
      `the handler of ${handler.scheme}: gave ${results.length} results for ${batch.length} cleanups`,
    );
  } catch (error) {
    return batch.map(({ id }) => resultOf(error, progressOf(id)));
  }
}
