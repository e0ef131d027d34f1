/** Why a store is left alone: its storage is down, a root is not the recorded disk, or the database says so for all. */
import type { EventEmitter } from 'node:events';
import type { Handler, Result } from '../handlers/contract.ts';
import type { Outbox, StorePause, WorkerPause } from '../outbox/outbox.ts';
import { Breaker } from './breaker.ts';
import type { ReconcilerEvents } from './events.ts';
import { RootWatch } from './roots.ts';

export interface PausesOptions {
  readonly store: string;
  readonly roots: readonly string[];
  readonly handler: Pick<Handler, 'identify'>;
  readonly outbox: Pick<Outbox, 'rootIdentity' | 'recordRoot'>;
  readonly events: EventEmitter<ReconcilerEvents>;
  readonly worker: string;
  /** Longest a storage call may take, in ms. */
  readonly storageTimeout: number;
  /** The database could not be asked. */
  readonly onTrouble: (doing: string, error: unknown) => void;
  /** Puts back what has not been started. */
  readonly handBackQueued: () => void;
  /** A pause began or ended, or the next probe is due at another time: the loop should look. */
  readonly onChange: () => void;
  /** What this worker leaves alone has changed: the record in the database should too. */
  readonly onPause: () => void;
}

/** Whether the storage has answered: what yields may not have asked it anything. */
function answered(result: Result): boolean {
  return result.outcome !== 'yielded' || (result.progressed ?? result.objects > 0);
}

export class Pauses {
  readonly #options: PausesOptions;
  readonly #breaker = new Breaker();
  readonly #roots: RootWatch;
  #breakerReason = '';
  #rootPaused = false;
  #forAll: StorePause['by'] | undefined;
  #forAllAsOf = Number.NEGATIVE_INFINITY;

  constructor(options: PausesOptions) {
    this.#options = options;
    this.#roots = new RootWatch({ ...options, timeout: options.storageTimeout });
  }

  /** What may be claimed and started now; `probe`: one row, if nothing is in hand. */
  get admits(): 'all' | 'probe' | 'nothing' {
    if (this.#forAll !== undefined || this.#roots.problem !== undefined) return 'nothing';
    if (!this.#breaker.open) return 'all';
    return this.#breaker.wait === 0 ? 'probe' : 'nothing';
  }

  /** Milliseconds until the store needs to be looked at without being asked; undefined: never. */
  wait(idle: boolean): number | undefined {
    const probing = this.#breaker.open && idle && this.#forAll === undefined;
    return this.#roots.wait ?? (probing ? this.#breaker.wait : undefined);
  }

  /** Milliseconds until a row that found the storage down may find it up again. */
  get storeWait(): number {
    const { wait } = this.#roots;
    // While the roots are looked at, nobody knows.
    if (wait !== undefined) return Number.isFinite(wait) ? wait : 0;
    return this.#breaker.wait;
  }

  /** What pauses the store now, by this worker or for all; undefined: nothing does. */
  get now(): StorePause['by'] | WorkerPause['by'] | undefined {
    return this.#forAll ?? this.own?.by;
  }

  /** What this worker leaves alone by itself, for the record. */
  get own(): WorkerPause | undefined {
    const { store } = this.#options;
    if (this.#rootPaused) return { store, by: 'root', reason: this.#roots.problem ?? '' };
    if (this.#breaker.open) return { store, by: 'breaker', reason: this.#breakerReason };
    return undefined;
  }

  identity(root: string): string | undefined {
    return this.#roots.identity(root);
  }

  /** What results say about the store itself. */
  judge(results: readonly Result[]): void {
    const { store, events, handBackQueued, onChange, onPause } = this.#options;
    const wrong = results.find(result => result.outcome === 'wrong_root');
    const down = results.find(result => result.outcome === 'unavailable');
    if (wrong !== undefined && 'error' in wrong) {
      this.#roots.doubt(wrong.error);
      this.#pauseRoot();
    } else if (down !== undefined && 'error' in down) {
      this.#breakerReason = down.error;
      if (this.#breaker.failure()) {
        events.emit('store_paused', { store, by: 'breaker', reason: down.error });
        handBackQueued();
        onPause();
      }
      onChange();
    } else if (results.some(answered) && this.#breaker.success()) {
      events.emit('store_resumed', { store, by: 'breaker' });
      onPause();
      onChange();
    }
  }

  /** Looks again whether the roots are the right ones, if it is time to. */
  async checkRoots(): Promise<void> {
    if (this.#roots.wait !== 0) return;
    await this.#roots.check();
    if (this.#roots.suspicious) this.#pauseRoot();
    else if (this.#rootPaused && this.#roots.problem === undefined) {
      this.#rootPaused = false;
      this.#options.events.emit('store_resumed', { store: this.#options.store, by: 'root' });
      this.#options.onPause();
    }
    this.#options.onChange();
  }

  /** The database is another server. */
  lookAgain(): void {
    this.#roots.lookAgain();
    this.#options.onChange();
  }

  #pauseRoot(): void {
    const { store, events, handBackQueued, onChange, onPause } = this.#options;
    if (!this.#rootPaused) {
      this.#rootPaused = true;
      onPause();
      events.emit('store_paused', { store, by: 'root', reason: this.#roots.problem ?? '' });
    }
    handBackQueued();
    onChange();
  }

  /**
   * What the database says about a pause for all workers; `asOf`, on the clock of `performance.now()`, is when it was
   * asked. An answer that is older than what is known already says nothing new.
   */
  forAll(pause: StorePause | undefined, asOf: number): void {
    if (asOf < this.#forAllAsOf) return;
    this.#forAllAsOf = asOf;
    if (pause?.by === this.#forAll) return;
    const { store, events, handBackQueued, onChange } = this.#options;
    if (this.#forAll !== undefined) events.emit('store_resumed', { store, by: this.#forAll });
    this.#forAll = pause?.by;
    if (pause !== undefined) {
      events.emit('store_paused', { store, by: pause.by, reason: pause.reason ?? 'no reason given' });
      handBackQueued();
    }
    onChange();
  }
}
