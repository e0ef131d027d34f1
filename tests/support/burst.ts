/** Many rows, and what they name in a storage in memory: whatever breaks, in the end each was done once, and nothing else is gone. */
import { setTimeout } from 'node:timers/promises';
import { expect } from 'vitest';
import { states } from '../outbox/rows.ts';
import type { TestDatabase } from './database.ts';
import { DELETED, type FakeHandler, fakeHandler } from './fake-handler.ts';
import { until } from './reconciler.ts';

export interface Burst {
  /** Deletes from the storage, ten rows a batch. */
  readonly handler: FakeHandler;
  /** Another one on the same storage, for another daemon. */
  anotherHandler(): FakeHandler;
  /** Lets the storage calls go on that were held. */
  release(): void;
  /** Writes so many rows, and puts what they name into the storage, each beside something that nobody asked to delete. */
  write(rows: number): Promise<void>;
  /**
   * Waits until all rows that were written have ended. None is lost, dead or twice in the audit trail, no attempt was
   * burnt, all that they named is gone, and nothing else is.
   */
  expectDone(): Promise<void>;
}

export interface BurstOptions {
  /** After so many storage calls all others wait for `release()`: so the burst is not over before it is to be. */
  readonly holdAfter?: number;
}

export function createBurst(db: Pick<TestDatabase, 'sql'>, options: BurstOptions = {}): Burst {
  const storage = new Set<string>();
  const neighbours = new Set<string>();
  let written = 0;
  let calls = 0;
  let release = () => {};
  const released = new Promise<void>(resolve => {
    release = resolve;
  });
  const createHandler = () => {
    const handler = fakeHandler(async ({ target }) => {
      if (options.holdAfter !== undefined && ++calls > options.holdAfter) await released;
      // Slow enough for something to break meanwhile.
      await setTimeout(1);
      storage.delete(target.text);
      return DELETED;
    });
    handler.batchSize = 10;
    return handler;
  };
  return {
    handler: createHandler(),
    anotherHandler: createHandler,
    release,
    async write(rows) {
      const targets = Array.from({ length: rows }, () => `fake://store/${++written}`);
      for (const target of targets) {
        storage.add(target).add(`${target}-neighbour`);
        neighbours.add(`${target}-neighbour`);
      }
      await db.sql('INSERT INTO afterdelete.pending_file_cleanup (target) SELECT * FROM unnest($1::text[])', [
        targets,
      ]);
    },
    async expectDone() {
      await until(
        async () => (await states(db)).done >= written,
        async () => `${written} done rows: there are ${JSON.stringify(await states(db))}`,
      );
      const [audit] =
        await db.sql(`SELECT count(*)::int AS rows, count(DISTINCT id)::int AS ids, count(DISTINCT target)::int AS targets,
          min(attempt) AS least, max(attempt) AS most, (SELECT count(*)::int FROM afterdelete.pending_file_cleanup)
            + (SELECT count(*)::int FROM afterdelete.running_file_cleanup) + (SELECT count(*)::int FROM afterdelete.dead_file_cleanup) AS elsewhere
        FROM afterdelete.done_file_cleanup`);
      expect(audit).toEqual({
        rows: written,
        ids: written,
        targets: written,
        least: 1,
        most: 1,
        elsewhere: 0,
      });
      expect([...storage].sort()).toEqual([...neighbours].sort());
    },
  };
}
