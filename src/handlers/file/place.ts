/** Entering a root, in one of the threads that delete. */
import { StorageError } from '../contract.ts';
import type { Folders } from './folders.ts';
import { rootPath } from './job.ts';
import { type Answer, failureOf, type Place } from './orders.ts';
import { PinnedFolders } from './pinned.ts';
import { PlainFolders } from './plain.ts';
import { verifyMark } from './root.ts';

/** Runs something with the directories of a root, and lets go of them afterwards. A classified failure becomes data. */
export function within<T>(
  { root, pinned }: Pick<Place, 'root' | 'pinned'>,
  work: (folders: Folders) => T,
): Answer<T> {
  const folders = new (pinned ? PinnedFolders : PlainFolders)(root, rootPath(root));
  try {
    return { value: work(folders) };
  } catch (error) {
    if (!(error instanceof StorageError)) throw error;
    return { failure: failureOf(error, '', '') };
  } finally {
    folders.close();
  }
}

/**
 * The same in a root that has been made sure of: it is the disk that was recorded.
 * What is to be called absent makes sure of it once more, by `verify`.
 */
export function withinVerified<T>(
  place: Place,
  work: (folders: Folders, verify: () => void) => T,
): Answer<T> {
  return within(place, folders => {
    const verify = () =>
      folders.use(folders.root, open => verifyMark(open, folders, place.root, place.recorded));
    verify();
    return work(folders, verify);
  });
}
