/** The way of a batch: ask the guard once, call the handler once, and have one result for each cleanup, whatever happens. */
import { inspect } from 'node:util';
import {
  type Cleanup,
  type Context,
  type Handler,
  messageOf,
  NOTHING,
  type Receipt,
  type Result,
  resultOf,
} from '../handlers/contract.ts';
import { isVerdict, resultFrom } from './given.ts';
import { type Guard, NotNow, type Verdict } from './guard.ts';
import { parentsOf, spareHeld } from './parents.ts';

/**
 * What became of a cleanup: a handler's result; `kept`, because a live row holds exactly this target; or `handed_back`,
 * because it may not go now: it has not been touched.
 */
export type Outcome =
  | Result
  | (Receipt & { readonly outcome: 'kept'; readonly note: string })
  | (Receipt & {
      readonly outcome: 'handed_back';
      /** Until it may be claimed again, in ms; left out: it may at once. */
      readonly delay?: number;
    });

/**
 * What the guard has let through, on its way to the handler: a fuse may hold some of it back. One outcome for each
 * cleanup, in order; `handle` calls the handler, once at most.
 */
export type Gate = (
  batch: readonly Cleanup[],
  handle: (batch: readonly Cleanup[]) => Promise<readonly Result[]>,
) => Promise<readonly Outcome[]>;

export interface DispatchOptions {
  readonly guard: Guard;
  /** Number of the claim that brought the batch. */
  readonly claim: string;
  /** Asked when the guard has answered: the store may have been paused meanwhile. What may not go is handed back. */
  readonly mayStart: () => boolean;
  /** Left out: all that the guard lets through goes. */
  readonly gate: Gate | undefined;
  readonly handler: Handler;
  readonly context: Context;
  /** How far a cleanup had come when its handler threw. */
  readonly progressOf: (id: string) => Receipt;
  readonly onTrouble: (doing: string, error: unknown) => void;
  /** The guard says that another server answers than the one that gave the claim. */
  readonly onOtherServer: () => void;
}

export interface Dispatched {
  /** One for each cleanup, in order. */
  readonly outcomes: readonly Outcome[];
  /** Those that the handler gave: they tell of the store itself. */
  readonly handled: readonly Result[];
  /** Time in the handler, in ms. */
  readonly ms: number;
}

/**
 * Before what the database could not be asked about is claimed again, in ms: where an address leads to two servers in turn, the one
 * refuses what the other gave.
 */
export const NOT_NOW = 1_000;

export async function dispatch(batch: readonly Cleanup[], options: DispatchOptions): Promise<Dispatched> {
  // Pruning deletes, too: the parents are asked about in the same breath.
  const parents = [...new Set(batch.filter(({ pruneParents }) => pruneParents > 0).flatMap(parentsOf))];
  const answers = await askGuard([...batch.map(cleanup => cleanup.target.text), ...parents], options);
  if (answers === undefined) return { outcomes: handedBack(batch, NOT_NOW), handled: [], ms: 0 };
  const verdicts = answers.slice(0, batch.length);
  const prunable = new Set(parents.filter((_, i) => answers[batch.length + i]?.verdict === 'go'));
  const free = batch
    .filter((_, i) => verdicts[i]?.verdict === 'go')
    .map(cleanup => spareHeld(cleanup, parent => prunable.has(parent)));
  let handled: readonly Result[] = [];
  let ms = 0;
  const handle = async (cleanups: readonly Cleanup[]) => {
    const started = performance.now();
    handled = cleanups.length === 0 ? [] : await callHandler(cleanups, options);
    ms = performance.now() - started;
    return handled;
  };
  const stay: Gate = async cleanups => handedBack(cleanups);
  const gate = options.mayStart() ? (options.gate ?? ((cleanups, go) => go(cleanups))) : stay;
  const passed = await gate(free, handle);
  let next = 0;
  const outcomes = verdicts.map((verdict): Outcome => {
    if (verdict.verdict === 'go') return passed[next++] as Outcome;
    if (verdict.verdict === 'kept') return { ...NOTHING, outcome: 'kept', note: verdict.reason };
    return { ...NOTHING, outcome: 'blocked', error: verdict.reason };
  });
  return { outcomes, handled, ms };
}

/** What has not been touched. */
const handedBack = (batch: readonly Cleanup[], delay?: number): Outcome[] =>
  batch.map(() => ({ ...NOTHING, outcome: 'handed_back', ...(delay !== undefined && { delay }) }));

/** What cannot be asked about is blocked: nothing is deleted unguarded. Undefined: the database could not be asked. */
async function askGuard(
  targets: readonly string[],
  { guard, claim, onTrouble, onOtherServer }: DispatchOptions,
): Promise<readonly Verdict[] | undefined> {
  try {
    const verdicts = await guard(targets, claim);
    if (verdicts.length !== targets.length)
      throw new Error(`it gave ${verdicts.length} verdicts for ${targets.length} targets`);
    const odd = verdicts.findIndex(verdict => !isVerdict(verdict));
    if (odd >= 0) throw new Error(`it gave a verdict that is none: ${inspect(verdicts[odd])}`);
    return verdicts;
  } catch (error) {
    const notNow = error instanceof NotNow;
    onTrouble(`asking the guard about ${targets.length} targets`, notNow ? error.cause : error);
    if (notNow) {
      if (error.otherServer) onOtherServer();
      return undefined;
    }
    const reason = `the guard cannot be asked: ${messageOf(error)}`;
    return targets.map(() => ({ verdict: 'blocked', reason }));
  }
}

async function callHandler(
  batch: readonly Cleanup[],
  { handler, context, progressOf }: DispatchOptions,
): Promise<readonly Result[]> {
  try {
    // A list of its own, with which it may do as it likes.
    const given = await handler.delete([...batch], context);
    const from = `the handler of ${handler.scheme}: gave`;
    if (given.length !== batch.length)
      throw new Error(`${from} ${given.length} results for ${batch.length} cleanups`);
    return given.map(each => {
      const result = resultFrom(each);
      if (result === undefined) throw new Error(`${from} a result that is none: ${inspect(each)}`);
      return result;
    });
  } catch (error) {
    return batch.map(({ id }) => resultOf(error, progressOf(id)));
  }
}
