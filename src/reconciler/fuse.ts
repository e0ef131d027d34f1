/**
 * The fuse against disasters: of one root, at most so many cleanups go within a window, over all daemons. What would be
 * one too many is not deleted; it pauses its store until a person resumes it.
 *
 * What the guard has let through is counted before it is deleted, or two daemons could each delete the last one. What then
 * stayed as it was is given back, so that a store that is down does not count again and again. What has lost objects stays
 * counted, finished or not, and is not counted anew when it comes again: a giant tree counts once over all its slices,
 * and no more than so many of them are begun.
 *
 * A worker that is killed in between has counted and tells nobody: those rows count once more. The fuse may blow too early
 * for that, never too late. (What a storage call deletes that has timed out counts when the next attempt finds it gone.)
 */
import { type Cleanup, NOTHING, type Result } from '../handlers/contract.ts';
import type { StorePause } from '../outbox/outbox.ts';
import { isAway } from '../outbox/reachability.ts';
import type { Counts, Limit, Spending, Spent } from '../outbox/spending.ts';
import { type Gate, NOT_NOW, type Outcome } from './dispatch.ts';

export interface FuseOptions {
  readonly store: string;
  readonly limit: Limit;
  readonly spending: Pick<Spending, 'spend' | 'giveBack'>;
  /** The database says that the store is paused, by this fuse or for another reason. */
  readonly onPaused: (pause: StorePause) => void;
  readonly onTrouble: (doing: string, error: unknown) => void;
}

const HANDED_BACK: Outcome = { ...NOTHING, outcome: 'handed_back' };

export class Fuse {
  readonly #options: FuseOptions;

  constructor(options: FuseOptions) {
    this.#options = options;
  }

  /** For one batch; `counted`: it has lost objects before, and counted then. */
  gate(counted: (id: string) => boolean): Gate {
    const { store, limit, spending, onPaused, onTrouble } = this.#options;
    return async (batch, handle) => {
      const fresh = batch.filter(({ id }) => !counted(id));
      if (fresh.length === 0) return await handle(batch);
      let spent: Spent;
      try {
        spent = await spending.spend(store, countsOf(fresh), limit);
      } catch (error) {
        onTrouble(`asking the fuse about ${fresh.length} cleanups`, error);
        return batch.map(() => (isAway(error) ? { ...HANDED_BACK, delay: NOT_NOW } : cannotBeAsked(error)));
      }
      if (spent.pause !== undefined) onPaused(spent.pause);
      const left = new Map(spent.granted);
      const goes = batch.map(({ id, root }) => counted(id) || take(left, root));
      const going = batch.filter((_, i) => goes[i]);
      const results = await handle(going);
      // Before they are settled: whoever claims them next must not find them counted.
      await this.#giveBack(
        going.filter(({ id }, i) => !counted(id) && !stays(results[i] as Result)),
        spent.moment,
      );
      let next = 0;
      return goes.map(go => (go ? (results[next++] as Result) : HANDED_BACK));
    };
  }

  async #giveBack(batch: readonly Cleanup[], moment: string): Promise<void> {
    if (batch.length === 0) return;
    const { store, spending, onTrouble } = this.#options;
    try {
      await spending.giveBack(store, countsOf(batch), moment);
    } catch (error) {
      // They count once more, as those of a worker that was killed.
      onTrouble(`giving back to the fuse what was not deleted of ${batch.length} cleanups`, error);
    }
  }
}

/** Nothing is deleted uncounted, as nothing is deleted unguarded. */
function cannotBeAsked(error: unknown): Outcome {
  const why = error instanceof Error ? error.message : String(error);
  return { ...NOTHING, outcome: 'blocked', error: `the fuse cannot be asked: ${why}` };
}

/** Whether what was counted stays so: it is gone, or some of it is. */
function stays({ outcome, objects }: Result): boolean {
  return outcome === 'deleted' || outcome === 'absent' || objects > 0;
}

function countsOf(batch: readonly Cleanup[]): Counts {
  const counts = new Map<string, number>();
  for (const { root } of batch) counts.set(root, (counts.get(root) ?? 0) + 1);
  return counts;
}

/** Takes one of what is left of a root; false when nothing is. */
function take(left: Map<string, number>, root: string): boolean {
  const n = left.get(root) ?? 0;
  if (n > 0) left.set(root, n - 1);
  return n > 0;
}
