/** A context for commands that look at the storage and touch nothing: no lease, because nothing is in hand. */
import pLimit from 'p-limit';
import type { Context } from '../handlers/contract.ts';
import { createContext } from '../reconciler/context.ts';

export interface LookingOptions {
  readonly concurrency: number;
  /** Longest a storage call may take, in ms. */
  readonly storageTimeout: number;
  /** The identities recorded for roots. */
  readonly identities: ReadonlyMap<string, string>;
}

export function createLookingContext({ concurrency, storageTimeout, identities }: LookingOptions): Context {
  return createContext({
    lease: { allows: () => true, ensure: async () => {} },
    tenure: { ended: false, stopping: false },
    slots: pLimit(concurrency),
    storageTimeout,
    margin: 0,
    sliceEnd: Number.POSITIVE_INFINITY,
    rate: undefined,
    identity: root => identities.get(root),
    onProgress: () => {},
  });
}
