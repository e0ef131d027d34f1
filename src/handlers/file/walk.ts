/**
 * One storage call's share of the deletion of a tree: goes down from the directories it was given, deletes their files,
 * removes them when they are empty, and gives back what it has not come to. Runs in a thread of its own.
 *
 * Iterative: recursion ends in a stack overflow or in too many open directories, at a depth that whoever writes below
 * the root decides (CVE-2021-3997). Everything that can be deleted is, whatever else fails.
 */
import { type Result, resultOf, StorageError } from '../contract.ts';
import { isNotEmpty, quotePath } from './errors.ts';
import { Folder, type Folders, FolderTree, type Name, type OpenFolder, Unreachable } from './folders.ts';
import { failed, textOf, wrongKind } from './job.ts';
import { entriesOf } from './listing.ts';
import { TreeMemory } from './memory.ts';
import {
  type Answer,
  type Ended,
  type Failure,
  failureOf,
  gravity,
  type Item,
  type Left,
  type Progress,
  type Share,
  UNTOUCHED,
  type WalkAnswer,
  type WalkOrder,
} from './orders.ts';
import { withinVerified } from './place.ts';
import { Budget, CALL_BUDGET, look, NONE, Recalled, removeFolder, unlinkFound } from './remove.ts';

/** Times that a directory is listed when it is found not to be empty after all: somebody still writes there. */
const MOST_PASSES = 3;

/** Directories of one directory that are dealt with at a time, so that ten million need not fit in memory. */
const MOST_FOLDERS = 10_000;

/** How long it works, in ms, before it gives work away to a thread that has none. */
const GIVE_AFTER = 1;

/** The first call of a tree gives away when it has found more directories than a small tree has. */
const SMALL_TREE = 64;

/**
 * A chain of more directories, one in the other, is done sooner than another thread has opened them all again: with it, the first
 * call takes as long as any.
 */
const DEEP = 16;

export function walk(order: WalkOrder): Answer<WalkAnswer> {
  const { place, items, first } = order;
  return withinVerified(place, (folders, verify) => {
    const memory = new TreeMemory(order.memory);
    if (first) {
      const early = beginWith(items[0] as Item, folders, memory, place.root);
      if (early?.outcome === 'absent') verify();
      if (early) return { early, left: [], ended: [], failures: 0, worst: undefined, pace: 0 };
    }
    const answer = new Walk(order, folders, memory).run();
    // Gone, and not by this: as with what was never there.
    if (answer.ended.length > 0 && !memory.progressed) verify();
    return answer;
  });
}

/** The target itself: a link is unlinked, and what is no directory refused. */
function beginWith(
  { address }: Item,
  folders: Folders,
  memory: TreeMemory,
  root: string,
): Result | undefined {
  const parent = new FolderTree(folders.root).at(address.slice(0, -1));
  const name = address.at(-1) as Name;
  const text = textOf(root, parent, name, true);
  try {
    return folders.use(parent, open => {
      const path = open.entry(name);
      const found = look(path);
      if (!found) return { ...NONE, outcome: 'absent' };
      if (found.isDirectory()) return undefined;
      if (!found.isSymbolicLink()) return resultOf(wrongKind(text, 'file'), NONE);
      const bytes = unlinkFound(path, found, memory.stopped);
      if (bytes === undefined) return { ...NONE, outcome: 'absent' };
      memory.countFile(0, bytes);
      return { objects: 1, bytes, outcome: 'deleted' };
    });
  } catch (error) {
    if (error instanceof Recalled) return { ...NONE, outcome: 'yielded' };
    return failed(text, parent, name, error);
  }
}

/** A directory on its way to be removed. */
interface Node extends Progress {
  readonly folder: Folder;
  readonly up: Node | undefined;
  /** Which item it is; -1 if it was found on the way. */
  readonly item: number;
  readonly share: Item['share'];
}

class Walk {
  readonly #folders: Folders;
  readonly #memory: TreeMemory;
  readonly #lane: number;
  readonly #budget: Budget;
  /** The deepest at the end. What stands before a directory is what it is in, or waits beside that. */
  readonly #stack: Node[];
  readonly #ended: Ended[] = [];
  #failures = 0;
  #worst: Failure | undefined;
  #halted = false;
  /** Directories on the stack that are to be listed: what could be given away. */
  #unlisted: number;
  /** So many of them it keeps, whoever has nothing to do. */
  readonly #keeps: number;

  constructor({ items, first, lane, ms }: WalkOrder, folders: Folders, memory: TreeMemory) {
    this.#folders = folders;
    this.#memory = memory;
    this.#lane = lane;
    this.#budget = new Budget(memory.stopped, ms);
    const tree = new FolderTree(folders.root);
    this.#stack = [];
    for (const [item, { address, up, share, ...progress }] of items.entries()) {
      const above = this.#stack[up];
      const folder = above ? new Folder(above.folder, address[0] as Name) : tree.at(address);
      this.#stack.push({ ...progress, folder, up: above, item, share });
    }
    this.#unlisted = items.filter(({ phase }) => phase === 'list').length;
    this.#keeps = first ? SMALL_TREE : 1;
  }

  run(): WalkAnswer {
    try {
      for (let node = this.#stack.at(-1); node && this.#mayGoOn(); node = this.#stack.at(-1)) {
        if (node.phase === 'remove') this.#remove(node);
        else if (!this.#list(node)) break;
      }
    } catch (error) {
      if (!(error instanceof Recalled)) throw error;
    }
    return {
      left: this.#left(),
      ended: this.#ended,
      failures: this.#failures,
      worst: this.#worst,
      pace: this.#budget.pace,
    };
  }

  #mayGoOn(): boolean {
    if (this.#halted || !this.#budget.goesOn) return false;
    const give = this.#unlisted > this.#keeps && this.#memory.idle > 0 && this.#budget.elapsed > GIVE_AFTER;
    return !give;
  }

  /** Deletes the files of a directory, and puts the directories in it on the stack. False if it was cut short. */
  #list(node: Node): boolean {
    try {
      const found = this.#folders.use(node.folder, open => this.#empty(node, open));
      if (!found) return false;
      if (node.share) {
        this.#end(node);
        return true;
      }
      node.phase = 'remove';
      this.#unlisted += found.length - 1;
      for (const name of found) {
        const folder = new Folder(node.folder, name);
        this.#stack.push({ ...UNTOUCHED, folder, up: node, item: -1, share: undefined });
      }
      if (this.#unlisted <= 1 && this.#stack.length > DEEP) this.#budget.extend(CALL_BUDGET);
    } catch (error) {
      if (error instanceof Recalled) throw error;
      // Somebody else may have removed it, which is what was wanted.
      if (!(error instanceof Unreachable && error.found === 'nothing'))
        this.#note(node, error, node.folder.path());
      if (node.share) {
        this.#end(node);
      } else {
        node.phase = 'remove';
        this.#unlisted -= 1;
      }
    }
    this.#budget.count();
    return true;
  }

  /** The directories in it; undefined if it was cut short. */
  #empty(node: Node, open: OpenFolder): Name[] | undefined {
    const folders: Name[] = [];
    let { keptFiles, keptFolders } = node;
    let before = node.share?.after ?? 0;
    node.more = false;
    for (const { name, isFolder } of entriesOf(open)) {
      if (isFolder) {
        if (node.share) continue;
        if (keptFolders > 0) keptFolders -= 1;
        else folders.push(name);
        node.more = folders.length >= MOST_FOLDERS;
        if (node.more) break;
      } else if (before > 0) {
        before -= 1;
      } else if (!node.share || fallsTo(node.share, name)) {
        if (keptFiles > 0) {
          keptFiles -= 1;
          continue;
        }
        if (this.#halted || !this.#budget.goesOn) return undefined;
        if (this.#removeFile(node, open, name)) folders.push(name);
        this.#budget.count();
      }
    }
    return folders;
  }

  /** True if it has become a directory. */
  #removeFile(node: Node, open: OpenFolder, name: Name): boolean {
    try {
      const path = open.entry(name);
      const found = look(path);
      if (!found) return false;
      if (found.isDirectory()) return true;
      const bytes = unlinkFound(path, found, this.#memory.stopped);
      if (bytes !== undefined) this.#memory.countFile(this.#lane, bytes);
    } catch (error) {
      if (error instanceof Recalled) throw error;
      node.keptFiles += 1;
      this.#note(node, error, node.folder.path(name));
    }
    return false;
  }

  #remove(node: Node): void {
    const { folder } = node;
    if (!folder.parent) throw new Error('the root is never removed');
    this.#folders.forget(folder);
    if (node.more) {
      this.#listAgain(node);
      return;
    }
    this.#budget.count();
    if (node.spoiled) {
      this.#end(node);
      return;
    }
    try {
      const removed = this.#folders.use(folder.parent, open =>
        removeFolder(open, folder.name, this.#memory.stopped),
      );
      if (removed) this.#memory.countFolder(this.#lane);
    } catch (error) {
      if (error instanceof Recalled) throw error;
      if (isNotEmpty(error) && node.passes < MOST_PASSES) {
        // Deleting while listing may make a file system skip entries, and writers may not have noticed yet.
        node.passes += 1;
        this.#listAgain(node);
        return;
      }
      if (!(error instanceof Unreachable && error.absent)) this.#note(node, error, folder.path());
    }
    this.#end(node);
  }

  #listAgain(node: Node): void {
    node.phase = 'list';
    this.#unlisted += 1;
  }

  /** It is done with, gone or not. */
  #end(node: Node): void {
    this.#stack.pop();
    if (node.share) this.#unlisted -= 1;
    this.#folders.forget(node.folder);
    const { up, item, spoiled, keptFiles } = node;
    if (item >= 0) this.#ended.push({ item, spoiled, keptFiles });
    if (up && spoiled) {
      up.spoiled = true;
      up.keptFolders += 1;
    }
  }

  #note(node: Node, error: unknown, path: string): void {
    node.spoiled = true;
    this.#failures += 1;
    const failure = failureOf(explain(error, path), 'delete', path);
    if (!this.#worst || gravity(failure) > gravity(this.#worst)) this.#worst = failure;
    if (failure.storeDown || failure.kind === 'wrong_root') this.#halted = true;
  }

  #left(): Left[] {
    const places = new Map(this.#stack.map((node, place) => [node, place]));
    return this.#stack.map(({ folder, up, share: _, ...progress }) => ({
      ...progress,
      ...{ name: folder.name, up: up ? (places.get(up) as number) : -1 },
    }));
  }
}

function explain(error: unknown, path: string): unknown {
  if (!(error instanceof Unreachable)) return error;
  if (error.found === 'mount') return error.refusal(quotePath(path));
  return new StorageError('transient', `${quotePath(path)} was a directory, and is now a ${error.found}`);
}

/** Whether a name is this thread's, of so many. Names of one directory often differ in their ends only. */
function fallsTo({ n, of }: Share, name: Name): boolean {
  let sum = 0;
  for (let at = Math.max(0, name.length - 8); at < name.length; at += 1) {
    sum = (sum * 31 + name.charCodeAt(at)) | 0;
  }
  return (sum >>> 0) % of === n;
}
