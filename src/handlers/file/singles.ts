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
    const results = deleteGroups(groups, new SinglesMemory(memory), folders, place.root);
    return results.some(result => result?.outcome === 'absent') ? confirm(results, verify) : results;
  });
}

/** Before anything is called absent, the disk must still be the recorded one. */
function confirm(results: SinglesAnswer, verify: () => void): SinglesAnswer {
  try {
    verify();
    return results;
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    return results.map(result => (result?.outcome === 'absent' ? resultOf(error, NONE) : result));
  }
}

function deleteGroups(
  groups: SinglesOrder['groups'],
  memory: SinglesMemory,
  folders: Folders,
  root: string,
): (Result | undefined)[] {
  const tree = new FolderTree(folders.root);
  const budget = new Budget(memory.stopped);
  const results: (Result | undefined)[] = [];
  for (const { address, names } of groups) {
    const parent = tree.at(address);
    const from = results.length;
    try {
      if (budget.goesOn) {
        folders.use(parent, open => {
          for (const name of names) {
            if (!budget.goesOn) break;
            const result = deleteSingle(open, parent, name, memory, results.length, root);
            results.push(result);
            budget.count();
          }
        });
      }
    } catch (error) {
      if (error instanceof Recalled) return results;
      // The directory itself: the same for all that are in it.
      for (let n = results.length - from; n < names.length; n += 1) {
        const name = names[n] as Name;
        results.push(failed(textOf(root, parent, name, false), parent, name, error));
      }
      budget.count();
    }
    while (results.length < from + names.length) results.push(undefined);
  }
  return results;
}

function deleteSingle(
  open: OpenFolder,
  parent: Folder,
  name: Name,
  memory: SinglesMemory,
  n: number,
  root: string,
): Result {
  try {
    const path = open.entry(name);
    const found = look(path);
    if (!found) return { ...NONE, outcome: 'absent' };
    if (found.isDirectory()) return resultOf(wrongKind(textOf(root, parent, name, false), 'directory'), NONE);
    const bytes = unlinkFound(path, found, memory.stopped);
    if (bytes === undefined) return { ...NONE, outcome: 'absent' };
    memory.freed(n, bytes);
    return { objects: 1, bytes, outcome: 'deleted' };
  } catch (error) {
    if (error instanceof Recalled) throw error;
    return failed(textOf(root, parent, name, false), parent, name, error);
  }
}
