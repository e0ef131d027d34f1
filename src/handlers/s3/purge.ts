/** In which order the versions that a page lists may go, and what of them must wait for the next page. */
import { keyOfMarker, type ListedObject, nameOf } from './listings.ts';

/** The newest version of a key whose older ones may go on in the next page: it must be the last to go. */
export interface OpenKey {
  readonly key: string;
  readonly newest: ListedObject | undefined;
  /** Whether all that is older could be deleted, so far. */
  readonly clear: Promise<boolean>;
}

/** The work on one page, under way. */
export interface PagePurge {
  /** What is gone in the end, by `nameOf`. */
  readonly gone: Promise<ReadonlySet<string>>;
  /** What the next page may go on with. */
  readonly open: OpenKey | undefined;
}

/**
 * Deletes the versions that a page lists: of each key the newest last, and only when nothing older is left, be it a
 * version or the marker of a deletion. Otherwise what is older would come back to life.
 */
export function purgePage(
  entries: readonly ListedObject[],
  { before, next }: { readonly before: OpenKey | undefined; readonly next: string | undefined },
  remove: (entries: readonly ListedObject[]) => Promise<ReadonlySet<string>>,
): PagePurge {
  const byKey = Map.groupBy(entries, ({ key = '' }) => key);
  const older = entries.filter(entry => !entry.isLatest);
  const olderOf = Map.groupBy(older, ({ key }) => key);
  const deletion = remove(older);
  const clearOf = async (key: string): Promise<boolean> => {
    const gone = await deletion;
    const here = (olderOf.get(key) ?? []).every(entry => gone.has(nameOf(entry)));
    return here && (before?.key === key ? await before.clear : true);
  };
  const newest = new Map([...byKey].map(([key, all]) => [key, all.find(({ isLatest }) => isLatest)]));
  if (before !== undefined && newest.get(before.key) === undefined) newest.set(before.key, before.newest);
  // Only the key that the next page begins with may have more versions.
  const last = next === undefined ? undefined : keyOfMarker(next);
  const open = last === undefined ? undefined : { key: last, newest: newest.get(last), clear: clearOf(last) };
  if (last !== undefined) newest.delete(last);
  const finish = async () => {
    const ready: ListedObject[] = [];
    const gone = await deletion;
    for (const [key, entry] of newest) {
      if (entry === undefined) continue;
      if (await clearOf(key)) ready.push(entry);
    }
    return new Set([...gone, ...(await remove(ready))]);
  };
  return { gone: finish(), open };
}
