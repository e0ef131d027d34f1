/** Deletes single files, those of one directory together. */
import { type Context, type Result, resultOf } from '../contract.ts';
import type { Folder, Folders, OpenFolder } from './folders.ts';
import { failed, type Job, wrongKind } from './job.ts';
import { createBudget, ENTRIES_A_CALL, look, NONE, unlinkFound } from './remove.ts';

export async function deleteSingles(jobs: readonly Job[], folders: Folders, context: Context): Promise<void> {
  const byParent = Map.groupBy(jobs, job => job.parent);
  await Promise.all(
    [...byParent].flatMap(([parent, siblings]) =>
      chunksOf(siblings).map(chunk => deleteChunk(parent, chunk, folders, context)),
    ),
  );
}

function chunksOf(jobs: readonly Job[]): Job[][] {
  const chunks: Job[][] = [];
  for (let n = 0; n < jobs.length; n += ENTRIES_A_CALL) chunks.push(jobs.slice(n, n + ENTRIES_A_CALL));
  return chunks;
}

async function deleteChunk(
  parent: Folder,
  chunk: readonly Job[],
  folders: Folders,
  context: Context,
): Promise<void> {
  const waiting = [...chunk];
  try {
    while (waiting.length > 0) {
      await context.call(signal =>
        folders.use(parent, async open => {
          const goOn = createBudget(signal);
          for (let job = waiting[0]; job && goOn(); job = waiting[0]) {
            const result = await deleteSingle(open, job, signal);
            // A call that was given up has nobody left to tell; its cleanups have been answered without it.
            if (signal.aborted) return;
            job.result = result;
            waiting.shift();
            const { objects, bytes } = result;
            if (objects > 0) context.progress(job.cleanup.id, { objects, bytes });
          }
        }),
      );
    }
  } catch (error) {
    for (const job of waiting) job.result = failed(job, error);
  }
}

async function deleteSingle(open: OpenFolder, job: Job, signal: AbortSignal): Promise<Result> {
  try {
    const found = await look(open, job.name);
    if (!found) return { ...NONE, outcome: 'absent' };
    if (found.isDirectory()) return resultOf(wrongKind(job, 'directory'), NONE);
    const freed = await unlinkFound(open, job.name, found, signal);
    return freed ? { ...freed, outcome: 'deleted' } : { ...NONE, outcome: 'absent' };
  } catch (error) {
    return failed(job, error);
  }
}
