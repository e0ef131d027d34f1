/** A daemon deletes only strictly inside a configured root: never the root itself, never outside. */
import { isInside, quoteTarget, ROOT_SENTINEL } from '../target.ts';

/** The root that a target lies inside, or undefined. Roots do not contain one another: there is one at most. */
export function rootOf(target: string, roots: readonly string[]): string | undefined {
  return roots.find(root => isInside(target, root));
}

/** Why a target that lies inside no live worker's root is dead, in words. */
export function outsideMessage(target: string, roots: readonly string[]): string {
  const itself = roots.find(root => target === root || `${target}/` === root);
  const known = roots.length === 0 ? 'none' : roots.join(', ');
  if (itself !== undefined) {
    return `${quoteTarget(target)} is the root ${itself} itself: a daemon deletes only strictly inside a root; nothing was touched`;
  }
  if (roots.some(root => target.startsWith(`${root}${ROOT_SENTINEL}`))) {
    return `${quoteTarget(target)} is the file that marks the root as the right disk, and is never deleted; nothing was touched`;
  }
  return `${quoteTarget(target)} is outside every root (${known}); nothing was touched. Add a root that contains it to a daemon's AFTERDELETE_ROOTS and retry it, or discard it`;
}
