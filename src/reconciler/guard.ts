/** The last question before anything is deleted: does a live row still hold it? */
import type { Cleanup } from '../handlers/contract.ts';

/** `go`: nobody holds it. `kept`: a live row holds exactly this. `blocked`: one holds something below it. */
export type Verdict =
  | { readonly verdict: 'go' }
  | { readonly verdict: 'kept' | 'blocked'; readonly reason: string };

/** Asked once a batch; one verdict for each cleanup, in order. What it throws blocks the batch. */
export type Guard = (batch: readonly Cleanup[]) => Promise<readonly Verdict[]>;

const GO: Verdict = { verdict: 'go' };

/** For a database in which no watch is declared: nothing is held. */
export const noHolders: Guard = async batch => batch.map(() => GO);
