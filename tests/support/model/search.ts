/** Looks for a run that leaves files and rows at odds, and says how to see it again. */
import fc from 'fast-check';
import type { Model } from './model.ts';
import { script } from './script.ts';

export interface SearchOptions {
  readonly runs: number;
  readonly seed: number;
  /** Only this one of the runs, as a report names it. */
  readonly path?: string;
  /** Longest to look for a simpler run that fails, in ms; 0: not at all. */
  readonly shrink: number;
  /** After each run that went well. */
  readonly onRun?: () => Promise<void>;
}

/**
 * What every hundred runs must do at least once, or they show nothing. Commits that a deadlock prevents and the like come by
 * chance, and are not among them.
 */
export const KINDS = [
  'absent',
  'all rows to another table',
  'another owner',
  'blocked',
  'cascade',
  'cascade into partitions',
  'crash after upload',
  'crash in a transaction',
  'delete',
  'delete by MERGE',
  'delete from a partition',
  'deleted',
  'discarded',
  'insert',
  'kept',
  'path',
  'path by MERGE',
  'path by ON CONFLICT DO UPDATE',
  'path of a partitioned row',
  'path to NULL',
  'restore',
  'rollback',
  'rollback to a savepoint',
  'savepoint',
  'set null',
  'share',
  'share by another pair of values',
  'soft delete',
  'swap in one statement',
  'swap in several statements',
  'the reservation was past due',
  'to another partition',
  'transfer to another table',
  'truncate',
  'truncate cascade',
  'unrelated update',
] as const;

/** Plays so many runs; undefined when all went well, else a report with seed and path. */
export async function search(model: Model, options: SearchOptions): Promise<string | undefined> {
  const { runs, seed, path, shrink, onRun } = options;
  const property = fc.asyncProperty(script, async run => {
    await model.run(run);
    await onRun?.();
  });
  const first = await fc.check(property, {
    numRuns: runs,
    seed,
    endOnFailure: true,
    ...(path === undefined ? {} : { path }),
  });
  if (!first.failed) return undefined;
  const described = (result: { errorInstance: unknown }) =>
    result.errorInstance instanceof Error ? result.errorInstance.message : String(result.errorInstance);
  const found = `run ${first.numRuns} of seed ${seed} failed (--seed ${seed} --path ${first.counterexamplePath}): ${described(first)}`;
  if (shrink === 0) return found;
  // Daemons have a time of their own, so that a run may fail once and not again.
  const again = await fc.check(property, {
    numRuns: 1,
    seed,
    path: first.counterexamplePath ?? '0',
    interruptAfterTimeLimit: shrink,
  });
  const shown = again.counterexample === null ? first : again;
  return [
    found,
    again.failed
      ? `again, simplified ${again.numShrinks} times: ${described(again)}`
      : 'not again at once; it was:',
    JSON.stringify(shown.counterexample?.[0], undefined, 1),
  ].join('\n');
}
