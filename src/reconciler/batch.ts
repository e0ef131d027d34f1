/** How claimed rows become batches: what the guard is asked and a handler is called with, once each. */
import type { Cleanup } from '../handlers/contract.ts';

/** Batches of at most `size` single targets, in order; a tree or prefix is a batch of its own. */
export function formBatches<T extends { readonly cleanup: Cleanup }>(
  rows: readonly T[],
  size: number,
): T[][] {
  const batches: T[][] = [];
  let singles: T[] = [];
  for (const row of rows) {
    if (row.cleanup.target.tree) {
      batches.push([row]);
      continue;
    }
    if (singles.length === 0) batches.push(singles);
    singles.push(row);
    if (singles.length >= size) singles = [];
  }
  return batches;
}
