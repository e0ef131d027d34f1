/** How the contestants are set up: as they come, and as fast as they or their documentation know how to be. */
import type { Entry } from './race.ts';

/** Their way as they come. pg-boss takes one job every two seconds then: its run is cut short. */
export const OUR_DEFAULTS: Entry = { label: 'afterdelete, as it comes', contestant: 'afterdelete' };
export const PEER_DEFAULTS: readonly Entry[] = [
  { label: 'graphile-worker, as it comes', contestant: 'graphile', limit: 60 },
  { label: 'pg-boss, as it comes', contestant: 'boss', limit: 20 },
];

/** Jobs in hand at a time. */
export const CONCURRENCY = 24;

export const OUR_BEST: Entry = {
  label: 'afterdelete, prefetch 8,000',
  contestant: 'afterdelete',
  settings: { prefetch: 8_000, concurrency: CONCURRENCY },
};

/** https://worker.graphile.org/docs/performance has this one, with a local queue of 500. */
const graphile = (size: number): Entry => ({
  label: `graphile-worker, local queue ${size}`,
  contestant: 'graphile',
  settings: {
    concurrentJobs: CONCURRENCY,
    maxPoolSize: CONCURRENCY + 1,
    localQueue: { size },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  },
});

/** https://pgboss.io/api/workers: batches, several workers, and no wait while batches come full. */
const boss = (batchSize: number): Entry => ({
  label: `pg-boss, batches of ${batchSize}`,
  contestant: 'boss',
  settings: {
    batchSize,
    localConcurrency: 4,
    burstWhenBatchFull: true,
    inFlight: CONCURRENCY,
  },
});

export const GRAPHILE_BEST = graphile(2_000);
export const BOSS_BEST = boss(2_000);
export const PEERS_BEST: readonly Entry[] = [graphile(500), GRAPHILE_BEST, boss(500), BOSS_BEST];
