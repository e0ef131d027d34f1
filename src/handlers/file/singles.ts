/** Deletes single files, those of one directory together. Runs in a thread of its own. */
import { type Result, resultOf, StorageError } from '../contract.ts';
import { type Folder, type Folders, FolderTree, type Name, type OpenFolder } from './folders.ts';
import { failed, textOf, wrongKind } from './job.ts';
import { SinglesMemory } from './memory.ts';
import type { Answer, SinglesAnswer, SinglesOrder } from './orders.ts';
import { withinVerified } from './place.ts';
import { Budget, look, NONE, Recalled, unlinkFound } from './remove.ts';

export function singles({ place, groups, memory }: SinglesOrder): Answer<SinglesAnswer> {
  return withinVerified(place, (folders, verify) => {
    const others = deleteGroups(groups, new SinglesMemory(memory), folders, place.root);
    return [...others.values()].some(({ outcome }) => outcome === 'absent')
      ? confirm(others, verify)
      : others;
  });
}

/** Before anything is called absent, the disk must still be the recorded one. */
function confirm(others: SinglesAnswer, verify: () => void): SinglesAnswer {
  try {
    verify();
    return others;
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    const entries = [...others].map(
      ([n, result]) => [n, result.outcome === 'absent' ? resultOf(error, NONE) : result] as const,
    );
    return new Map(entries);
  }
}

function deleteGroups(
  groups: SinglesOrder['groups'],
  memory: SinglesMemory,
  folders: Folders,
  root: string,
): Map<number, Result> {
  const tree = new FolderTree(folders.root);
  const budget = new Budget(memory.stopped);
  const others = new Map<number, Result>();
  let first = 0;
  for (const { address, names: joined } of groups) {
    const parent = tree.at(address);
    const names = joined.split('/');
    let n = 0;
    try {
      if (budget.goesOn) {
        folders.use(parent, open => {
          for (; n < names.length && budget.goesOn; n += 1) {
            const other = deleteSingle(open, parent, names[n] as Name, memory, first + n, root);
            if (other) others.set(first + n, other);
            budget.count();
          }
        });
      }
    } catch (error) {
      if (error instanceof Recalled) return others;
      // The directory itself: the same for all that are in it.
      for (; n < names.length; n += 1) {
        const name = names[n] as Name;
        others.set(first + n, failed(textOf(root, parent, name, false), parent, name, error));
      }
      budget.count();
    }
    first += names.length;
  }
  return others;
}

/** Deletes the nth file of an order, and writes that down; else says what became of it. */
function deleteSingle(
  open: OpenFolder,
  parent: Folder,
  name: Name,
  memory: SinglesMemory,
  n: number,
  root: string,
): Result | undefined {
  try {
    const path = open.entry(name);
    const found = look(path);
    if (!found) return { ...NONE, outcome: 'absent' };
    if (found.isDirectory()) return resultOf(wrongKind(textOf(root, parent, name, false), 'directory'), NONE);
    const bytes = unlinkFound(path, found, memory.stopped);
    if (bytes === undefined) return { ...NONE, outcome: 'absent' };
    memory.freed(n, bytes);
    return undefined;
  } catch (error) {
    if (error instanceof Recalled) throw error;
    return failed(textOf(root, parent, name, false), parent, name, error);
  }
}
