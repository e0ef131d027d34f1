/** Looks for a run of the protocol that breaks a rule, and says how to see it again. */
import fc from 'fast-check';
import { Violation } from './checks.ts';
import type { Protocol } from './protocol.ts';
import { script } from './script.ts';
import type { Step } from './steps.ts';

export interface SearchOptions {
  readonly runs: number;
  readonly seed: number;
  /** The first of these runs, as a report names it. */
  readonly path?: string;
  /** Longest to look for a simpler run that fails, in ms; 0: not at all. */
  readonly shrink: number;
  /** After each run that went well. */
  readonly onRun?: () => void;
}

export interface Found {
  /** The rule of docs/protocol.md that was broken; undefined where a statement failed. */
  readonly rule: string | undefined;
  /** Of the run, to play it again. */
  readonly path: string;
  /** With the seed, and the steps that lead there. */
  readonly report: string;
}

/** What some hundred runs must do at least once, or they show nothing; what comes by chance only is not among them. */
export const KINDS = [
  'a floor rose',
  'a key that somebody has',
  'a row that was locked lies below the floor',
  'a settle behind progress',
  'a settle of what is not held',
  'armed',
  'claim from the cursor',
  'claim from the floor',
  'commit: cancel',
  'commit: claim',
  'commit: confirm',
  'commit: deregister',
  'commit: discard',
  'commit: hand back strays',
  'commit: heartbeat',
  'commit: progress',
  'commit: reap',
  'commit: retry',
  'commit: settle',
  'commit: write',
  'marked',
  'paused: claim',
  'paused: reap',
  'paused: settle',
  'paused: write',
  'refused: claim',
  'rollback to a savepoint',
  'rollback: claim',
  'rollback: reap',
  'rollback: write',
  'unheard: claim',
  'woken by a ring',
] as const;

/** Plays so many runs; undefined when all went well. */
export async function search(protocol: Protocol, options: SearchOptions): Promise<Found | undefined> {
  const { runs, seed, path, shrink, onRun } = options;
  const property = fc.asyncProperty(script, async steps => {
    await protocol.run(steps);
    onRun?.();
  });
  const first = await fc.check(property, {
    numRuns: runs,
    seed,
    endOnFailure: true,
    ...(path === undefined ? {} : { path }),
  });
  if (!first.failed) return undefined;
  const rule = ruleOf(first.errorInstance);
  const again = first.counterexamplePath ?? '';
  const found = `run ${first.numRuns} of seed ${seed} failed (--seed ${seed} --path ${again}): ${told(first.errorInstance)}`;
  if (shrink === 0) return { rule, path: again, report: found };
  const steps = first.counterexample?.[0] ?? [];
  const { fewest, error } = await simplify(protocol, steps, rule, performance.now() + shrink);
  const report = [
    found,
    error === undefined ? 'not again at once; it was:' : `again, in ${fewest.length} steps: ${told(error)}`,
    ...fewest.map(step => `  ${JSON.stringify(step)}`),
  ].join('\n');
  return { rule, path: again, report };
}

const ruleOf = (error: unknown) => (error instanceof Violation ? error.rule : undefined);

function told(error: unknown): string {
  if (error instanceof Violation) return error.message;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

/**
 * Leaves out what a failure does not need: half of the steps, quarters, single ones. fast-check would do it in the end, but
 * tries the values of each step as well, and a run takes tens of milliseconds.
 */
async function simplify(
  protocol: Protocol,
  steps: readonly Step[],
  rule: string | undefined,
  until: number,
): Promise<{ fewest: readonly Step[]; error: unknown }> {
  const failure = async (some: readonly Step[]): Promise<unknown> => {
    try {
      await protocol.run(some);
      return undefined;
    } catch (error) {
      return ruleOf(error) === rule ? error : undefined;
    }
  };
  let fewest = steps;
  // Rows fall due by the clock, so that a run may fail once and not again.
  let error = (await failure(steps)) ?? (await failure(steps));
  if (error === undefined) return { fewest, error };
  for (let size = Math.ceil(fewest.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let at = fewest.length - size; at > -size && performance.now() < until; at -= size) {
      const fewer = [...fewest.slice(0, Math.max(0, at)), ...fewest.slice(at + size)];
      const again = await failure(fewer);
      if (again === undefined) continue;
      fewest = fewer;
      error = again;
    }
  }
  return { fewest, error };
}
