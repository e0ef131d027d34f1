/** Looks for a run of the protocol that breaks a rule, and says how to see it again. */
import fc from 'fast-check';
import { Violation } from './checks.ts';
import type { Protocol } from './protocol.ts';
import { script } from './steps.ts';

export interface SearchOptions {
  readonly runs: number;
  readonly seed: number;
  /** Only this one of the runs, as a report names it. */
  readonly path?: string;
  /** Longest to look for a simpler run that fails, in ms; 0: not at all. */
  readonly shrink: number;
  /** After each run that went well. */
  readonly onRun?: () => void;
}

export interface Found {
  /** The rule of docs/protocol.md that was broken; undefined where a statement failed. */
  readonly rule: string | undefined;
  /** With the seed, and the steps that lead there. */
  readonly report: string;
}

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
  const error: unknown = first.errorInstance;
  const rule = error instanceof Violation ? error.rule : undefined;
  const told = (e: unknown) =>
    e instanceof Violation ? e.message : e instanceof Error ? e.stack : String(e);
  const found = `run ${first.numRuns} of seed ${seed} failed (--seed ${seed} --path ${first.counterexamplePath}): ${told(error)}`;
  if (shrink === 0) return { rule, report: found };
  const again = await fc.check(property, {
    numRuns: 1,
    seed,
    path: first.counterexamplePath ?? '0',
    interruptAfterTimeLimit: shrink,
  });
  const shown = again.counterexample === null ? first : again;
  const steps = shown.counterexample?.[0] ?? [];
  const report = [
    found,
    again.failed
      ? `again, simplified ${again.numShrinks} times: ${told(again.errorInstance)}`
      : 'not again at once; it was:',
    ...steps.map(step => `  ${JSON.stringify(step)}`),
  ].join('\n');
  return { rule, report };
}
