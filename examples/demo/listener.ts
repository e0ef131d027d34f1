/** Remembers what a reconciler tells, so that a story can wait for it without having to be first. */
import type { ReconcilerEvents } from '../../src/reconciler/events.ts';
import type { Reconciler } from '../../src/reconciler/reconciler.ts';
import { FalseClaim } from './narrate.ts';

type Name = 'cleanup_done' | 'cleanup_dead' | 'store_paused' | 'store_resumed';
type Told<N extends Name> = ReconcilerEvents[N][0];

/** Longest that the demo waits for anything, in ms: far more than it needs, for machines with much else to do. */
export const PATIENCE = 30_000;
/** How often the database is asked again, in ms: it rings no bell for a reader. */
const ASK_AGAIN = 20;

export class Listener {
  readonly #told: { [N in Name]: Told<N>[] } = {
    cleanup_done: [],
    cleanup_dead: [],
    store_paused: [],
    store_resumed: [],
  };
  readonly #waiting = new Set<() => void>();
  readonly #signal: AbortSignal;

  /** Once the signal is aborted, every wait ends with its reason. */
  constructor({ events }: Pick<Reconciler, 'events'>, signal: AbortSignal) {
    this.#signal = signal;
    signal.addEventListener('abort', () => {
      for (const look of this.#waiting) look();
    });
    events.on('cleanup_done', event => this.#note('cleanup_done', event));
    events.on('cleanup_dead', event => this.#note('cleanup_dead', event));
    events.on('store_paused', event => this.#note('store_paused', event));
    events.on('store_resumed', event => this.#note('store_resumed', event));
  }

  #note<N extends Name>(name: N, event: Told<N>): void {
    const told: Told<N>[] = this.#told[name];
    told.push(event);
    for (const look of this.#waiting) look();
  }

  /**
   * The first event of that name that matches, past or to come.
   * @throws FalseClaim when it does not come; `expected` says in words what was waited for.
   */
  first<N extends Name>(name: N, matches: (event: Told<N>) => boolean, expected: string): Promise<Told<N>> {
    const told: Told<N>[] = this.#told[name];
    return new Promise((resolve, reject) => {
      const end = () => {
        clearTimeout(timer);
        this.#waiting.delete(look);
      };
      const look = () => {
        if (this.#signal.aborted) {
          end();
          reject(this.#signal.reason);
          return;
        }
        const event = told.find(matches);
        if (event === undefined) return;
        end();
        resolve(event);
      };
      const timer = setTimeout(() => {
        end();
        reject(new FalseClaim(`the daemon tells ${name}`, expected, `nothing of it in ${PATIENCE / 1000} s`));
      }, PATIENCE);
      this.#waiting.add(look);
      look();
    });
  }
}

/**
 * Asks until the answer will do, and returns it.
 * @throws FalseClaim with the last answer when it never does.
 */
export async function until<T>(
  ask: () => Promise<T>,
  willDo: (answer: T) => boolean,
  expected: string,
): Promise<T> {
  const end = performance.now() + PATIENCE;
  for (;;) {
    const answer = await ask();
    if (willDo(answer)) return answer;
    if (performance.now() > end) throw new FalseClaim('the database comes to say so', expected, answer);
    await new Promise(resolve => setTimeout(resolve, ASK_AGAIN));
  }
}
