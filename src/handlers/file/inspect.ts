/** Looks at what a cleanup would delete, and touches nothing. Runs in a thread of its own. */
import { accessSync, constants, type Stats } from 'node:fs';
import { type Inspection, StorageError } from '../contract.ts';
import { classify } from './errors.ts';
import { Folder, type Folders, FolderTree, type Name, type OpenFolder, Unreachable } from './folders.ts';
import { failed, textOf, wrongKind } from './job.ts';
import { type Entry, entriesOf } from './listing.ts';
import type { Answer, InspectOrder } from './orders.ts';
import { within, withinVerified } from './place.ts';
import { Budget, bytesFreed, look, NONE } from './remove.ts';

/** Inspections that are not finished, as far as they have come: the thread has this for them alone. */
const running = new Map<string, Search>();

/** Goes on for a while; undefined when there is more to look at. */
export function inspect({ place, id, target, forget }: InspectOrder): Answer<Inspection | undefined> {
  if (forget) {
    running.get(id)?.close();
    running.delete(id);
    return { value: undefined };
  }
  // The first daemon takes over what mark there is, or writes one: until then there is nothing to compare.
  const enter = place.recorded === undefined ? within : withinVerified;
  const answer = enter(place, folders => {
    const known = running.get(id);
    if (known) return known.goOn(folders);
    if (!target) return { ...NONE, exists: false, problem: 'the inspection was lost with its thread' };
    return begin(target, folders, place.root, search => running.set(id, search)).goOn(folders);
  });
  if ('failure' in answer) {
    running.get(id)?.close();
    running.delete(id);
    return { value: { ...NONE, exists: false, problem: answer.failure.message } };
  }
  if (answer.value) running.delete(id);
  return answer;
}

type Begun = Pick<Search, 'goOn'>;

function begin(
  { address, name, tree }: NonNullable<InspectOrder['target']>,
  folders: Folders,
  root: string,
  keep: (search: Search) => void,
): Begun {
  const parent = new FolderTree(folders.root).at(address);
  const text = textOf(root, parent, name, tree);
  const at = (inspection: Inspection): Begun => ({ goOn: () => inspection });
  let found: Stats | undefined;
  try {
    found = folders.use(parent, open => {
      const there = look(open.entry(name));
      if (there) mayChange(open, parent);
      return there;
    });
  } catch (error) {
    const result = failed(text, parent, name, error);
    return at({ ...NONE, exists: false, ...('error' in result && { problem: result.error }) });
  }
  if (!found) return at({ ...NONE, exists: false });
  if (found.isDirectory() && tree) {
    const search = new Search(new Folder(parent, name));
    keep(search);
    return search;
  }
  if (found.isDirectory() || (tree && !found.isSymbolicLink())) {
    const problem = wrongKind(text, found.isDirectory() ? 'directory' : 'file').message;
    return at({ ...NONE, exists: true, problem });
  }
  const tally = new Tally();
  tally.count(found);
  return at(tally.inspection());
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

/** A tree that is looked at. Between the calls it keeps where in a directory it is, by that directory's descriptor. */
class Search {
  readonly #tally = new Tally();
  /** Addresses, because the Folders are those of one call. */
  readonly #stack: Name[][];
  #entries: Generator<Entry, void> | undefined;

  constructor(top: Folder) {
    this.#stack = [top.address()];
  }

  close(): void {
    this.#entries?.return();
    this.#entries = undefined;
  }

  goOn(folders: Folders): Inspection | undefined {
    const budget = new Budget(() => false);
    const tree = new FolderTree(folders.root);
    for (let address = this.#stack.at(-1); address; address = this.#stack.at(-1)) {
      if (!budget.goesOn) return undefined;
      const folder = tree.at(address);
      const found: Name[] = [];
      let ended = true;
      try {
        ended = this.#lookThrough(folder, folders, found, budget);
      } catch (error) {
        this.close();
        this.#fail(error, folder);
      }
      if (ended) this.#stack.splice(this.#stack.indexOf(address), 1);
      // Below the one that is not ended: that one is gone on with first.
      const below = found.map(name => [...(address as Name[]), name]);
      if (ended) this.#stack.push(...below);
      else this.#stack.splice(this.#stack.length - 1, 0, ...below);
      budget.count();
    }
    return this.#tally.inspection();
  }

  /** Whether it came to the end of the directory. */
  #lookThrough(folder: Folder, folders: Folders, found: Name[], budget: Budget): boolean {
    return folders.use(folder, open => {
      if (!this.#entries) {
        this.#entries = entriesOf(open);
        try {
          mayChange(open, folder);
        } catch (error) {
          this.#tally.fail(error instanceof StorageError ? error.message : String(error));
        }
      }
      while (budget.goesOn) {
        const next = this.#entries.next();
        if (next.done) {
          this.#entries = undefined;
          return true;
        }
        const stats = look(open.entry(next.value.name));
        if (stats?.isDirectory()) found.push(next.value.name);
        else if (stats) this.#tally.count(stats);
        budget.count();
      }
      return false;
    });
  }

  #fail(error: unknown, folder: Folder): void {
    if (error instanceof Unreachable && error.found === 'nothing') return;
    const failure = error instanceof Unreachable ? error.refusal(folder.path()) : error;
    const why = classify(failure, 'list', folder.path());
    this.#tally.fail(why instanceof Error ? why.message : String(why));
  }
}

/** Whether entries of a directory may be removed, as far as permissions tell. */
function mayChange(open: OpenFolder, folder: Folder): void {
  try {
    accessSync(open.path, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw classify(error, 'delete in', folder.path());
  }
}
