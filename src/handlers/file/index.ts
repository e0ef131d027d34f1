/**
 * The handler for `file:` targets.
 *
 * What it promises: nothing outside a root is touched, whatever is linked, mounted or swapped below it; nothing is
 * called absent on a disk that is not the recorded one; and what it tells of objects and bytes is never more than
 * the truth.
 */
import { randomUUID } from 'node:crypto';
import {
  type Cleanup,
  type Context,
  type Handler,
  type Inspection,
  type Result,
  resultOf,
} from '../contract.ts';
import { deleteFiles } from './files.ts';
import { createJobs, type Job, refusal } from './job.ts';
import type { Place } from './orders.ts';
import { canPin } from './pinned.ts';
import { pruneParents } from './prune.ts';
import { NONE } from './remove.ts';
import { useThreads } from './threads.ts';
import { deleteTree } from './tree.ts';

export interface FileHandlerOptions {
  /** This machine's name in `file://HOST/…`. Targets of other machines are refused; without it, none is. */
  readonly host?: string;
  /** Whether directories are held by descriptors. Default: where the system can (Linux). See `plain.ts`. */
  readonly pinned?: boolean;
}

export function createFileHandler(options: FileHandlerOptions = {}): Handler {
  const { host, pinned = canPin() } = options;
  const { threads, release } = useThreads();

  const placeOf = (root: string, context?: Context): Place => ({
    root,
    pinned,
    recorded: context?.identity(root),
  });

  async function deleteUnder(root: string, cleanups: readonly Cleanup[], context: Context) {
    const place = placeOf(root, context);
    const jobs = createJobs(cleanups, root);
    const [trees, singles] = [
      jobs.filter(job => job.cleanup.target.tree),
      jobs.filter(job => !job.cleanup.target.tree),
    ];
    await deleteFiles(singles, place, threads, context);
    for (const job of trees) job.result = await deleteTree(job, place, threads, context);
    await pruneParents(jobs, place, threads, context);
    return jobs.map(({ result }) => result ?? unanswered);
  }

  return {
    scheme: 'file',
    batchSize: 1000,

    async delete(batch, context) {
      const results: (Result | undefined)[] = batch.map(cleanup => {
        const refused = refusal(cleanup, host);
        return refused && resultOf(refused, NONE);
      });
      const allowed = [...batch.keys()].filter(n => !results[n]);
      const byRoot = Map.groupBy(allowed, n => (batch[n] as Cleanup).root);
      await Promise.all(
        [...byRoot].map(async ([root, places]) => {
          const cleanups = places.map(n => batch[n] as Cleanup);
          const answers = await deleteUnder(root, cleanups, context);
          for (const [k, n] of places.entries()) results[n] = answers[k];
        }),
      );
      return results.map(result => result ?? unanswered);
    },

    async inspect(cleanup, context): Promise<Inspection> {
      const refused = refusal(cleanup, host);
      if (refused) return { ...NONE, exists: false, problem: refused.message };
      const { root } = cleanup;
      const place = placeOf(root, context);
      const [{ parent, name }] = createJobs([cleanup], root) as [Job];
      const target = { address: parent.address(), name, tree: cleanup.target.tree };
      const id = randomUUID();
      const look = (order: { target?: typeof target }) =>
        context.call(signal => threads.run('looks', 'inspect', { place, id, ...order }, { signal }));
      try {
        for (let seen = await look({ target }); ; seen = await look({})) {
          if (seen) return seen;
        }
      } catch (error) {
        threads.run('looks', 'inspect', { place, id, forget: true }).catch(() => {});
        throw error;
      }
    },

    async identify(root, { create }) {
      return threads.run('quick', 'identify', { place: placeOf(root), create });
    },

    async probe(root, context) {
      const place = placeOf(root, context);
      await context.call(signal => threads.run('quick', 'probe', { place }, { signal }));
    },

    async advise() {
      return pinned ? [] : [WEAKER];
    },

    async close() {
      release();
    },
  };
}

/** What is to be known of `plain.ts`. */
export const WEAKER =
  'directories cannot be held by descriptors here: expected Linux with /proc mounted. Deletion goes by paths, and ' +
  'whoever may write below the root and wins a race can lead one out of it. Use this for development only';

const unanswered: Result = { ...NONE, outcome: 'retry', error: 'the file handler gave no answer: a bug' };
