/** What has to do with a root as a whole. Runs in a thread of its own. */
import type { Answer, Place } from './orders.ts';
import { within, withinVerified } from './place.ts';
import { probeRoot, readMark, readOrWriteMark, verifyMark } from './root.ts';

/** Reads the mark of a root; `create` writes one if there is none. */
export function identify({
  place,
  create,
}: {
  readonly place: Place;
  readonly create: boolean;
}): Answer<string> {
  return within(place, folders =>
    folders.use(folders.root, open => (create ? readOrWriteMark : readMark)(open, folders, place.root)),
  );
}

/** Whether a root is the disk that was recorded. */
export function verify({ place }: { readonly place: Place }): Answer<undefined> {
  return withinVerified(place, () => undefined);
}

/** Whether a root can be worked in. Until a daemon has taken it over, nothing is recorded to compare it with. */
export function probe({ place }: { readonly place: Place }): Answer<undefined> {
  return within(place, folders =>
    folders.use(folders.root, open => {
      probeRoot(open, folders, place.root);
      if (place.recorded !== undefined) verifyMark(open, folders, place.root, place.recorded);
      return undefined;
    }),
  );
}
