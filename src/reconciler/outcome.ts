/** What an outcome means for the row: done, back to pending for a while, or dead. */
import type { Receipt } from '../handlers/contract.ts';
import type { ClaimedRow, Settlement } from '../outbox/rows.ts';
import { type BackoffOptions, fullJitter } from './backoff.ts';
import type { Outcome } from './dispatch.ts';

export interface OutcomePolicy {
  /** Attempts before a row is dead. */
  readonly maxAttempts: number;
  readonly backoff: BackoffOptions;
  /** Time slice of a giant target, in ms. */
  readonly slice: number;
}

/** What the decision depends on besides the row and the result. */
export interface Circumstances {
  /** The daemon stops: what yields has not used up its slice. */
  readonly stopping: boolean;
  /** When the store will be probed again, in ms from now. */
  readonly storeWait: number;
}

const SECOND = 1_000;
/** A blocked row is looked at again within this time. */
const BLOCKED_MAX = 5 * 60 * SECOND;

/** Decides how a row leaves the worker's hands. */
export function settlementOf(
  row: ClaimedRow,
  result: Outcome,
  policy: OutcomePolicy,
  { stopping, storeWait }: Circumstances,
): Settlement {
  const objects = sum(row.objects, result.objects);
  const bytes = sum(row.bytes, result.bytes);
  // Almost all rows end here.
  if (result.outcome === 'deleted' || result.outcome === 'absent') {
    // Gone by an earlier slice, or by a worker that vanished before it could say so: still deleted by us.
    const outcome = result.outcome === 'absent' && (objects ?? 0) > 0 ? 'deleted' : result.outcome;
    return { row, objects, bytes, kind: 'done', outcome, note: result.note ?? null };
  }
  const total = { row, objects, bytes };
  const back = (
    reason: (Settlement & { kind: 'back' })['reason'],
    delay: number,
    error: string | null,
  ): Settlement => ({
    ...total,
    kind: 'back',
    reason,
    delay,
    error,
  });
  switch (result.outcome) {
    case 'kept':
      return { ...total, kind: 'done', outcome: 'kept', note: result.note };
    case 'yielded':
      if (result.progressed ?? result.objects > 0) return back('yielded', 0, result.note ?? null);
      if (stopping) return back('handed_back', 0, null);
      return failed(`its time slice of ${policy.slice / SECOND} s ended before anything was deleted`);
    case 'handed_back':
      return handBack(row, result.delay);
    case 'blocked':
      // Young rows are looked at often, old ones rarely.
      return back('blocked', Math.min(BLOCKED_MAX, Math.max(SECOND, row.waited / 2)), result.error);
    case 'unavailable':
    case 'wrong_root':
      return back('blocked', Math.min(BLOCKED_MAX, Math.max(policy.backoff.base, storeWait)), result.error);
    case 'retry':
      return failed(result.error);
    case 'dead':
      return { ...total, kind: 'dead', error: result.error };
  }

  function failed(error: string): Settlement {
    const attempt = row.attempt + 1;
    if (attempt >= policy.maxAttempts) {
      return {
        ...total,
        kind: 'dead',
        error: `given up after attempt ${attempt} of ${policy.maxAttempts}: ${error}`,
      };
    }
    return back('retry', fullJitter(attempt, policy.backoff), error);
  }
}

/** Puts a row back that was never tried: no attempt, no error, due at once or after a delay, in ms. */
export function handBack(row: ClaimedRow, delay = 0): Settlement {
  return {
    kind: 'back',
    row,
    reason: 'handed_back',
    delay,
    error: null,
    objects: row.objects,
    bytes: row.bytes,
  };
}

function sum(before: number | null, now: number | null): number | null {
  return before === null ? now : before + (now ?? 0);
}

/** What a row has deleted so far, with what this run reports. */
export function totalOf(row: ClaimedRow, receipt: Receipt): { objects: number | null; bytes: number | null } {
  return { objects: sum(row.objects, receipt.objects), bytes: sum(row.bytes, receipt.bytes) };
}
