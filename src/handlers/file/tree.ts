/**
 * Deletes a tree: its files in small storage calls, several directories at a time, each directory when it is empty.
 *
 * Iterative: recursion ends in a stack overflow or in too many open directories, at a depth that whoever writes below
 * the root decides (CVE-2021-3997). Directories are taken from a stack, deepest first, so that what is waiting stays
 * small. Everything that can be deleted is, whatever else fails.
 */
import { type Context, type Receipt, type Result, resultOf, Stopped, StorageError } from '../contract.ts';
import { classify, isNotEmpty, isStoreDown, quotePath } from './errors.ts';
import { Folder, type Folders, type Name, type OpenFolder, Unreachable } from './folders.ts';
import { failed, type Job, wrongKind } from './job.ts';
import { Listing } from './listing.ts';
import { createBudget, look, NONE, removeFolder, unlinkFound } from './remove.ts';

/**
 * Directories of a tree in work at the same time. Unlinks in one directory wait for each other in the kernel, those in
 * several do not. The store's slots are the limit; this only bounds what waits for them.
 */
const FOLDERS_AT_ONCE = 16;

/** Times that a directory is listed when it is found not to be empty after all: somebody still writes there. */
const MOST_PASSES = 3;

/** A directory of the tree on its way to be removed. */
interface Branch {
  readonly folder: Folder;
  readonly up: Branch | undefined;
  /** Directories in it that are not done with, and one for the listing of itself. */
  unfinished: number;
  /** Something in it could not be deleted, so that it cannot be removed. */
  spoiled: boolean;
  passes: number;
}

/** Deletes what a target with a slash at its end names. */
export async function deleteTree(job: Job, folders: Folders, context: Context): Promise<Result> {
  try {
    const early = await context.call(signal =>
      folders.use(job.parent, async (open): Promise<Result | undefined> => {
        const found = await look(open, job.name);
        if (!found) return { ...NONE, outcome: 'absent' };
        if (found.isDirectory()) return undefined;
        if (!found.isSymbolicLink()) return resultOf(wrongKind(job, 'file'), NONE);
        const freed = await unlinkFound(open, job.name, found, signal);
        return freed ? { ...freed, outcome: 'deleted' } : { ...NONE, outcome: 'absent' };
      }),
    );
    if (early) return early;
  } catch (error) {
    return failed(job, error);
  }
  return new TreeDeletion(job, folders, context).run();
}

class TreeDeletion {
  readonly #id: string;
  readonly #folders: Folders;
  readonly #context: Context;
  /** Directories to list, the deepest at the end. */
  readonly #stack: Branch[];
  #active = 0;
  #objects = 0;
  #bytes = 0;
  #foldersRemoved = 0;
  /** No further storage call is begun. */
  #halted = false;
  #topIsGone = false;
  #failures = 0;
  #worst: StorageError | undefined;
  #finish: (result: Result) => void = () => {};

  constructor(job: Job, folders: Folders, context: Context) {
    this.#id = job.cleanup.id;
    this.#folders = folders;
    this.#context = context;
    this.#stack = [branch(new Folder(job.parent, job.name), undefined)];
  }

  run(): Promise<Result> {
    return new Promise(resolve => {
      this.#finish = resolve;
      this.#pump();
    });
  }

  #pump(): void {
    while (this.#active < FOLDERS_AT_ONCE && !this.#mustHalt()) {
      const next = this.#stack.pop();
      if (!next) break;
      this.#active += 1;
      void this.#visit(next).finally(() => {
        this.#active -= 1;
        this.#pump();
      });
    }
    if (this.#active === 0) this.#finish(this.#result());
  }

  /** A slice always removes something, or a tree could be begun again and again and never end. */
  #mustHalt(): boolean {
    if (!this.#halted && this.#objects + this.#foldersRemoved > 0 && this.#context.shouldYield()) {
      this.#halted = true;
    }
    return this.#halted;
  }

  /** Never rejects: what goes wrong is noted. */
  async #visit(at: Branch): Promise<void> {
    try {
      await this.#empty(at);
    } catch (error) {
      this.#note(at, error, at.folder.path());
    }
    at.unfinished -= 1;
    for (let done: Branch | undefined = at; done && done.unfinished === 0; done = done.up) {
      if (this.#mustHalt()) return;
      if (!done.spoiled) await this.#remove(done);
      if (done.unfinished > 0) return;
      if (!done.up) return;
      done.up.spoiled ||= done.spoiled;
      done.up.unfinished -= 1;
    }
  }

  /** Unlinks the files in a directory, and puts the directories in it on the stack. */
  async #empty(at: Branch): Promise<void> {
    let listing: Listing | undefined;
    try {
      for (let more = true; more && !this.#mustHalt(); this.#pump()) {
        more = await this.#context.call(signal =>
          this.#folders.use(at.folder, async open => {
            listing ??= await Listing.open(open, signal);
            for (const goOn = createBudget(signal); goOn(); ) {
              const name = await listing.next();
              if (name === undefined) return false;
              await this.#removeEntry(at, open, name, signal);
            }
            return true;
          }),
        );
        this.#context.progress(this.#id, this.#receipt());
      }
    } finally {
      listing?.close();
    }
  }

  async #removeEntry(at: Branch, open: OpenFolder, name: Name, signal: AbortSignal): Promise<void> {
    try {
      const found = await look(open, name);
      if (found?.isDirectory()) {
        at.unfinished += 1;
        this.#stack.push(branch(new Folder(at.folder, name), at));
      } else if (found) {
        const freed = await unlinkFound(open, name, found, signal);
        this.#objects += freed?.objects ?? 0;
        this.#bytes += freed?.bytes ?? 0;
      }
    } catch (error) {
      this.#note(at, error, at.folder.path(name));
    }
  }

  async #remove(at: Branch): Promise<void> {
    const { folder } = at;
    if (!folder.parent) throw new Error('the root is never removed');
    const parent = folder.parent;
    this.#folders.forget(folder);
    try {
      const removed = await this.#context.call(signal =>
        this.#folders.use(parent, open => removeFolder(open, folder.name, signal)),
      );
      if (removed) this.#foldersRemoved += 1;
      this.#topIsGone = !at.up;
    } catch (error) {
      if (error instanceof Unreachable && error.absent) {
        this.#topIsGone = !at.up;
        return;
      }
      if (isNotEmpty(error) && at.passes < MOST_PASSES) {
        // Deleting while listing may make a file system skip entries, and writers may not have noticed yet.
        at.passes += 1;
        at.unfinished = 1;
        this.#stack.push(at);
        return;
      }
      this.#note(at, error, folder.path());
    }
  }

  #note(at: Branch, error: unknown, path: string): void {
    if (error instanceof Stopped) {
      this.#halted = true;
      return;
    }
    // Somebody else has removed it, which is what was wanted.
    if (error instanceof Unreachable && error.found === 'nothing') return;
    at.spoiled = true;
    this.#failures += 1;
    const failure = asFailure(error, path);
    if (!this.#worst || gravity(failure) > gravity(this.#worst)) this.#worst = failure;
    if (isStoreDown(failure) || failure.kind === 'wrong_root') this.#halted = true;
  }

  #receipt(): Receipt {
    return { objects: this.#objects, bytes: this.#bytes };
  }

  #result(): Result {
    const receipt = this.#receipt();
    if (this.#topIsGone) {
      return { ...receipt, outcome: this.#objects + this.#foldersRemoved > 0 ? 'deleted' : 'absent' };
    }
    const worst = this.#worst;
    const cutShort = this.#halted && !(worst && (isStoreDown(worst) || worst.kind === 'wrong_root'));
    if (cutShort || !worst) {
      return { ...receipt, outcome: 'yielded', progressed: this.#objects + this.#foldersRemoved > 0 };
    }
    const others = this.#failures - 1;
    const message =
      others > 0 ? `${worst.message} (and ${others} more like it or less grave)` : worst.message;
    return resultOf(new StorageError(worst.kind, message, { cause: worst }), receipt);
  }
}

function branch(folder: Folder, up: Branch | undefined): Branch {
  return { folder, up, unfinished: 1, spoiled: false, passes: 1 };
}

function asFailure(error: unknown, path: string): StorageError {
  if (error instanceof Unreachable) {
    if (error.found === 'mount') return error.refusal(quotePath(path));
    return new StorageError('transient', `${quotePath(path)} was a directory, and is now a ${error.found}`);
  }
  const classified = classify(error, 'delete', path);
  if (classified instanceof StorageError) return classified;
  return new StorageError('transient', `could not delete ${quotePath(path)}: ${String(error)}`, {
    cause: error,
  });
}

/** As long as a retry may get further, the tree is retried; what is left then is what no retry can mend. */
function gravity(error: StorageError): number {
  return ['permanent', 'transient', 'unavailable', 'wrong_root'].indexOf(error.kind);
}
