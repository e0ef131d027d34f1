/**
 * Removes parent directories that a deletion has left empty. By rmdir(2) alone, which refuses what is not empty:
 * nothing is ever looked at and then removed. Uploaders must make their directories again when they find them gone.
 */
import { type Context, Stopped, StorageError } from '../contract.ts';
import { classify, codeOf, isNotEmpty } from './errors.ts';
import { type Folder, type Folders, Unreachable } from './folders.ts';
import type { Job } from './job.ts';
import { removeFolder } from './remove.ts';

/** A directory to try, for whom, and how many levels upwards including itself. */
interface Candidate {
  readonly folder: Folder;
  levels: number;
  readonly jobs: Job[];
}

/** A failure to prune does not fail the cleanup, whose file is gone: it is noted. */
export async function pruneParents(jobs: readonly Job[], folders: Folders, context: Context): Promise<void> {
  // By depth, because the children of a directory must have been tried before it.
  const byDepth: Map<Folder, Candidate>[] = [];
  for (const job of jobs) {
    const { outcome } = job.result ?? {};
    if (outcome === 'deleted' || outcome === 'absent') add(job.parent, job.cleanup.pruneParents, [job]);
  }
  for (let depth = byDepth.length - 1; depth > 0; depth -= 1) {
    await Promise.all([...(byDepth[depth]?.values() ?? [])].map(prune));
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

  async function prune({ folder, levels, jobs: of }: Candidate): Promise<void> {
    try {
      if (await isGone(folder, folders, context)) add(folder.parent, levels - 1, of);
    } catch (error) {
      for (const job of of) note(job, error, folder);
    }
  }
}

/** Whether the directory is no longer there, by this or by somebody else. */
async function isGone(folder: Folder, folders: Folders, context: Context): Promise<boolean> {
  const { parent } = folder;
  if (!parent) return false;
  folders.forget(folder);
  try {
    await context.call(signal => folders.use(parent, open => removeFolder(open, folder.name, signal)));
    return true;
  } catch (error) {
    if (error instanceof Unreachable && error.absent) return true;
    if (isNotEmpty(error) || codeOf(error) === 'ENOTDIR') return false;
    throw error;
  }
}

function note(job: Job, error: unknown, folder: Folder): void {
  const { result } = job;
  if (result?.outcome !== 'deleted' && result?.outcome !== 'absent') return;
  if (error instanceof Stopped) {
    // The next run finds the file absent, and prunes.
    job.result = { ...result, outcome: 'yielded' };
    return;
  }
  const failure = error instanceof Unreachable ? error.refusal(job.cleanup.target.text) : error;
  const why = classify(failure, 'remove the empty parent directory', folder.path());
  const words = why instanceof StorageError ? why.message : String(why);
  job.result = { ...result, note: `empty parent directories were left: ${words}` };
}
