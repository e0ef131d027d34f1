/**
 * The handler for `file:` targets.
 *
 * What it promises: nothing outside a root is touched, whatever is linked, mounted or swapped below it; nothing is
 * called absent on a disk that is not the recorded one; and what it tells of objects and bytes is never more than
 * the truth.
 */
import { existsSync } from 'node:fs';
import {
  type Cleanup,
  type Context,
  type Handler,
  type Inspection,
  type Result,
  resultOf,
  StorageError,
} from '../contract.ts';
import type { Folders } from './folders.ts';
import { inspect } from './inspect.ts';
import { createJobs, type Job, refusal, rootPath } from './job.ts';
import { PinnedFolders } from './pinned.ts';
import { PlainFolders } from './plain.ts';
import { pruneParents } from './prune.ts';
import { NONE } from './remove.ts';
import { probeRoot, readMark, readOrWriteMark, verifyMark } from './root.ts';
import { deleteSingles } from './singles.ts';
import { deleteTree } from './tree.ts';

export interface FileHandlerOptions {
  /** This machine's name in `file://HOST/…`. Targets of other machines are refused; without it, none is. */
  readonly host?: string;
  /** Whether directories are held by descriptors. Default: where the system can (Linux). See `plain.ts`. */
  readonly pinned?: boolean;
}

export function createFileHandler(options: FileHandlerOptions = {}): Handler {
  const { host, pinned = process.platform === 'linux' && existsSync('/proc/self/fd') } = options;

  /** Runs something with the directories of a root, and lets go of them afterwards. */
  async function within<T>(root: string, work: (folders: Folders) => Promise<T>): Promise<T> {
    const folders = new (pinned ? PinnedFolders : PlainFolders)(root, rootPath(root));
    try {
      return await work(folders);
    } finally {
      folders.close();
    }
  }

  async function deleteUnder(root: string, cleanups: readonly Cleanup[], context: Context) {
    return within(root, async folders => {
      const jobs = createJobs(cleanups, folders);
      const verify = () =>
        context.call(() =>
          folders.use(folders.root, open => verifyMark(open, folders, root, context.identity(root))),
        );
      try {
        await verify();
      } catch (error) {
        return jobs.map(() => resultOf(error, NONE));
      }
      const [trees, singles] = [
        jobs.filter(job => job.cleanup.target.tree),
        jobs.filter(job => !job.cleanup.target.tree),
      ];
      await deleteSingles(singles, folders, context);
      for (const job of trees) job.result = await deleteTree(job, folders, context);
      await confirmAbsent(jobs, verify);
      await pruneParents(jobs, folders, context);
      return jobs.map(({ result }) => result ?? unanswered);
    });
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
      return within(root, async folders => {
        const recorded = context.identity(root);
        try {
          // The first daemon takes over what mark there is, or writes one: until then there is nothing to compare.
          await context.call(() =>
            folders.use(folders.root, async open => {
              if (recorded !== undefined) await verifyMark(open, folders, root, recorded);
            }),
          );
        } catch (error) {
          if (!(error instanceof StorageError)) throw error;
          return { ...NONE, exists: false, problem: error.message };
        }
        const [job] = createJobs([cleanup], folders);
        return inspect(job as Job, folders, context);
      });
    },

    identify(root, { create }) {
      return within(root, folders =>
        folders.use(folders.root, open =>
          create ? readOrWriteMark(open, folders, root) : readMark(open, folders, root),
        ),
      );
    },

    async probe(root, context) {
      await within(root, folders =>
        context.call(() =>
          folders.use(folders.root, async open => {
            await probeRoot(open, folders, root);
            const recorded = context.identity(root);
            if (recorded !== undefined) await verifyMark(open, folders, root, recorded);
          }),
        ),
      );
    },
  };
}

const unanswered: Result = { ...NONE, outcome: 'retry', error: 'the file handler gave no answer: a bug' };

/** Before anything is called absent, the disk must still be the recorded one. */
async function confirmAbsent(jobs: readonly Job[], verify: () => Promise<void>): Promise<void> {
  const absent = jobs.filter(job => job.result?.outcome === 'absent');
  if (absent.length === 0) return;
  try {
    await verify();
  } catch (error) {
    for (const job of absent) job.result = resultOf(error, NONE);
  }
}
