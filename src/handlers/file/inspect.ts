/** Looks at what a cleanup would delete, and touches nothing. */
import { constants, type Stats } from 'node:fs';
import { access } from 'node:fs/promises';
import { type Context, type Inspection, Stopped, StorageError } from '../contract.ts';
import { classify } from './errors.ts';
import { Folder, type Folders, type OpenFolder, Unreachable } from './folders.ts';
import { failed, type Job, wrongKind } from './job.ts';
import { Listing } from './listing.ts';
import { bytesFreed, createBudget, look, NONE } from './remove.ts';

export async function inspect(job: Job, folders: Folders, context: Context): Promise<Inspection> {
  const tally = new Tally();
  let found: Stats | undefined;
  try {
    found = await context.call(() =>
      folders.use(job.parent, async open => {
        const there = await look(open, job.name);
        if (there) await mayChange(open, job.parent);
        return there;
      }),
    );
  } catch (error) {
    return unseen(job, error);
  }
  if (!found) return { ...NONE, exists: false };
  const { tree } = job.cleanup.target;
  if (found.isDirectory() && tree) {
    await inspectTree(new Folder(job.parent, job.name), tally, folders, context);
  } else if (found.isDirectory() || (tree && !found.isSymbolicLink())) {
    const problem = wrongKind(job, found.isDirectory() ? 'directory' : 'file').message;
    return { ...NONE, exists: true, problem };
  } else {
    tally.count(found);
  }
  return tally.inspection();
}

function unseen(job: Job, error: unknown): Inspection {
  if (error instanceof Stopped) throw error;
  const result = failed(job, error);
  if (!('error' in result)) return { ...NONE, exists: false };
  return { ...NONE, exists: false, problem: result.error };
}

class Tally {
  #objects = 0;
  #bytes = 0;
  #problem: string | undefined;
  /** Files with several names, by how many have been met: the last one that goes frees the bytes. */
  readonly #linked = new Map<string, number>();

  count(found: Stats): void {
    this.#objects += 1;
    this.#bytes += bytesFreed(found);
    if (found.nlink < 2 || !found.isFile()) return;
    const inode = `${found.dev} ${found.ino}`;
    const met = (this.#linked.get(inode) ?? 0) + 1;
    this.#linked.set(inode, met);
    if (met === found.nlink) this.#bytes += found.blocks * 512;
  }

  fail(message: string): void {
    this.#problem ??= message;
  }

  inspection(): Inspection {
    const seen = { objects: this.#objects, bytes: this.#bytes, exists: true };
    return this.#problem === undefined ? seen : { ...seen, problem: this.#problem };
  }
}

async function inspectTree(top: Folder, tally: Tally, folders: Folders, context: Context): Promise<void> {
  const stack = [top];
  for (let folder = stack.pop(); folder; folder = stack.pop()) {
    try {
      await inspectFolder(folder, stack, tally, folders, context);
    } catch (error) {
      if (error instanceof Stopped) throw error;
      if (error instanceof Unreachable && error.found === 'nothing') continue;
      const failure = error instanceof Unreachable ? error.refusal(folder.path()) : error;
      const why = classify(failure, 'list', folder.path());
      tally.fail(why instanceof Error ? why.message : String(why));
    }
  }
}

async function inspectFolder(
  folder: Folder,
  stack: Folder[],
  tally: Tally,
  folders: Folders,
  context: Context,
): Promise<void> {
  let listing: Listing | undefined;
  try {
    for (let more = true; more; ) {
      more = await context.call(signal =>
        folders.use(folder, async open => {
          if (!listing) {
            listing = await Listing.open(open, signal);
            await mayChange(open, folder).catch((error: unknown) => {
              tally.fail(error instanceof StorageError ? error.message : String(error));
            });
          }
          for (const goOn = createBudget(signal); goOn(); ) {
            const name = await listing.next();
            if (name === undefined) return false;
            const found = await look(open, name);
            if (found?.isDirectory()) stack.push(new Folder(folder, name));
            else if (found) tally.count(found);
          }
          return true;
        }),
      );
    }
  } finally {
    listing?.close();
    folders.forget(folder);
  }
}

/** Whether entries of a directory may be removed, as far as permissions tell. */
async function mayChange(open: OpenFolder, folder: Folder): Promise<void> {
  try {
    await access(open.path, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw classify(error, 'delete in', folder.path());
  }
}
