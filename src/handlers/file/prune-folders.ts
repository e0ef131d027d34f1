/** Tries to remove directories that may have become empty. Runs in a thread of its own. */
import { codeOf, isNotEmpty } from './errors.ts';
import { type Folder, type Folders, FolderTree, Unreachable } from './folders.ts';
import { SinglesMemory } from './memory.ts';
import { type Answer, type Failure, failureOf, type PruneAnswer, type PruneOrder } from './orders.ts';
import { withinVerified } from './place.ts';
import { Budget, Recalled, removeFolder, type Stop } from './remove.ts';

export function prune({ place, folders: addresses, memory }: PruneOrder): Answer<PruneAnswer> {
  return withinVerified(place, folders => {
    const { stopped } = new SinglesMemory(memory);
    const budget = new Budget(stopped);
    const tree = new FolderTree(folders.root);
    return addresses.map(address => {
      if (!budget.goesOn) return undefined;
      budget.count();
      return isGone(tree.at(address), folders, stopped);
    });
  });
}

/** Whether the directory is no longer there, by this or by somebody else. */
function isGone(folder: Folder, folders: Folders, stop: Stop): boolean | Failure | undefined {
  const { parent } = folder;
  if (!parent) return false;
  try {
    folders.use(parent, open => removeFolder(open, folder.name, stop));
    return true;
  } catch (error) {
    if (error instanceof Recalled) return undefined;
    if (error instanceof Unreachable && error.absent) return true;
    if (isNotEmpty(error) || codeOf(error) === 'ENOTDIR') return false;
    const failure = error instanceof Unreachable ? error.refusal(folder.path()) : error;
    return failureOf(failure, 'remove the empty parent directory', folder.path());
  }
}
