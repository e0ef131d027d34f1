/** Which parent directories a cleanup may remove if they are empty afterwards: never the root, never one that is held. */
import type { Cleanup } from '../handlers/contract.ts';
import { isInside } from '../target.ts';

/** The directories that pruning would try, the nearest first: at most `pruneParents`, all strictly inside the root. */
export function parentsOf({ target, root, pruneParents }: Cleanup): string[] {
  const parents: string[] = [];
  let path = target.text;
  while (parents.length < pruneParents) {
    path = path.slice(0, path.lastIndexOf('/', path.length - 2) + 1);
    if (!isInside(path, root)) break;
    parents.push(path);
  }
  return parents;
}

/** The same cleanup, pruning no further than below the first parent that may not go. */
export function spareHeld(cleanup: Cleanup, mayGo: (parent: string) => boolean): Cleanup {
  const held = parentsOf(cleanup).findIndex(parent => !mayGo(parent));
  return held < 0 ? cleanup : { ...cleanup, pruneParents: held };
}
