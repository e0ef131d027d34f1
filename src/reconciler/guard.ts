/** The last question before anything is deleted: does a live row still hold it? */
import type { Holders } from '../outbox/holders.ts';
import type { ClaimedRow } from '../outbox/rows.ts';

/** `go`: nobody holds it. `kept`: a live row holds exactly this. `blocked`: one holds something below it. */
export type Verdict =
  | { readonly verdict: 'go' }
  | { readonly verdict: 'kept' | 'blocked'; readonly reason: string };

/** Asked once a batch; one verdict for each target, in order. What it throws blocks the batch. */
export type Guard = (targets: readonly string[]) => Promise<readonly Verdict[]>;

const GO: Verdict = { verdict: 'go' };
/** How old an answer may be that came with the claim, in ms. One that is asked for is as old when its answer has been worked on. */
const FRESH = 10;

/** The guard for rows of which the holders have said something already, or nothing. */
export type GuardFor = (told: readonly Verdict[] | undefined) => Guard;

/** The holders first, unless they have been asked; then, about what those let go, a guard of the user's own. */
export function guardBy(holders: Pick<Holders, 'ask'>, own: Guard | undefined): GuardFor {
  const ask = askHolders(holders);
  return told => {
    const first: Guard = told === undefined ? ask : async () => told;
    return own === undefined ? first : both(first, own);
  };
}

/**
 * What the holders said of all these rows when they were claimed, if that was just now and is all there is to ask: where
 * parent directories are to be pruned, those must be asked about as well.
 */
export function justTold(
  rows: readonly Pick<ClaimedRow, 'verdict' | 'claimedAt' | 'pruneParents'>[],
): Verdict[] | undefined {
  const since = performance.now() - FRESH;
  const verdicts: Verdict[] = [];
  for (const { verdict, claimedAt, pruneParents } of rows) {
    if (verdict === undefined || claimedAt < since || pruneParents > 0) return undefined;
    verdicts.push(verdict === 'free' ? GO : verdict);
  }
  return verdicts;
}

/** Asks the watched tables, and the guards that are declared in the database. */
export function askHolders(holders: Pick<Holders, 'ask'>): Guard {
  return async targets => (await holders.ask(targets)).map(objection => objection ?? GO);
}

/** Asks one guard after the other; each only about what those before it let go. */
export function both(first: Guard, second: Guard): Guard {
  return async targets => {
    const verdicts = [...(await first(targets))];
    const free = [...targets.keys()].filter(n => verdicts[n]?.verdict === 'go');
    if (free.length === 0) return verdicts;
    const answers = await second(free.map(n => targets[n] as string));
    if (answers.length !== free.length)
      throw new Error(`it gave ${answers.length} verdicts for ${free.length} targets`);
    for (const [k, n] of free.entries()) verdicts[n] = answers[k] as Verdict;
    return verdicts;
  };
}
