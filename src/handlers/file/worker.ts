/** What the threads of `threads.ts` run: one function an order, by its name. Each returns data, and never waits. */
import { identify, probe, verify } from './identity.ts';
import { inspect } from './inspect.ts';
import { prune } from './prune-folders.ts';
import { singles } from './singles.ts';
import { walk } from './walk.ts';

export { identify, inspect, probe, prune, singles, verify, walk };

export interface Orders {
  readonly identify: typeof identify;
  readonly inspect: typeof inspect;
  readonly probe: typeof probe;
  readonly prune: typeof prune;
  readonly singles: typeof singles;
  readonly verify: typeof verify;
  readonly walk: typeof walk;
}
