/**
 * Removes parent directories that a deletion has left empty. By rmdir(2) alone, which refuses what is not empty:
 * nothing is ever looked at and then removed. Uploaders must make their directories again when they find them gone.
 */
import { type Context, resultOf, Stopped, StorageError } from '../contract.ts';
import type { Folder } from './folders.ts';
import type { Job } from './job.ts';
import { SinglesMemory } from './memory.ts';
import type { Failure, Place } from './orders.ts';
import type { Threads } from './threads.ts';

/** A directory to try, for whom, and how many levels upwards including itself. */
interface Candidate {
  readonly folder: Folder;
  levels: number;
  readonly jobs: Job[];
}

/**
 * A failure to prune does not fail the cleanup, whose file is gone: it is noted. But where the disk itself is away, the next run will find the file
 * absent, and prune.
 */
export async function pruneParents(
  jobs: readonly Job[],
  place: Place,
  threads: Threads,
  context: Context,
): Promise<void> {
  // By depth, because the children of a directory must have been tried before it.
  const byDepth: Map<Folder, Candidate>[] = [];
  for (const job of jobs) {
    const { outcome } = job.result ?? {};
    if (outcome === 'deleted' || outcome === 'absent') add(job.parent, job.cleanup.pruneParents, [job]);
  }
  for (let depth = byDepth.length - 1; depth > 0; depth -= 1) {
    for (let left = [...(byDepth[depth]?.values() ?? [])]; left.length > 0; ) left = await tryAll(left);
  }

  function add(folder: Folder | undefined, levels: number, of: readonly Job[]): void {
    if (!folder?.parent || levels <= 0) return;
    const candidates = byDepth[folder.depth] ?? new Map<Folder, Candidate>();
    byDepth[folder.depth] = candidates;
    const candidate = candidates.get(folder) ?? { folder, levels: 0, jobs: [] };
    candidate.levels = Math.max(candidate.levels, levels);
    candidate.jobs.push(...of);
    candidates.set(folder, candidate);
  }

  /** Returns those that it has not come to. */
  async function tryAll(candidates: readonly Candidate[]): Promise<Candidate[]> {
    const memory = SinglesMemory.for(0);
    const order = {
      ...{ place, memory: memory.buffer },
      folders: candidates.map(({ folder }) => folder.address()),
    };
    try {
      const answer = await context.call(signal =>
        threads.run('quick', 'prune', order, { signal, stop: () => memory.stop() }),
      );
      return candidates.filter((candidate, n) => {
        const gone = answer[n];
        if (gone === true) add(candidate.folder.parent, candidate.levels - 1, candidate.jobs);
        else if (gone) for (const job of candidate.jobs) note(job, gone);
        return gone === undefined;
      });
    } catch (error) {
      for (const { jobs: of } of candidates) {
        for (const job of of) noteThrown(job, error);
      }
      return [];
    }
  }
}

function noteThrown(job: Job, error: unknown): void {
  const { result } = job;
  if (error instanceof Stopped && (result?.outcome === 'deleted' || result?.outcome === 'absent')) {
    // The next run finds the file absent, and prunes.
    job.result = { ...result, outcome: 'yielded' };
  } else {
    const { kind, message } =
      error instanceof StorageError ? error : { kind: undefined, message: String(error) };
    note(job, { kind, message });
  }
}

function note(
  job: Job,
  { kind, message }: { readonly kind: Failure['kind'] | undefined; readonly message: string },
): void {
  const { result } = job;
  if (result?.outcome !== 'deleted' && result?.outcome !== 'absent') return;
  if (kind === 'wrong_root' || kind === 'unavailable') {
    const { objects, bytes } = result;
    job.result = resultOf(new StorageError(kind, message), { objects, bytes });
    return;
  }
  job.result = { ...result, note: `empty parent directories were left: ${message}` };
}
