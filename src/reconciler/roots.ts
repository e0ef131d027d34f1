/**
 * Makes sure that each root of a store is the disk it was: the identity that the handler reads must be the recorded one.
 * An unmounted disk must never look like "already deleted".
 */
import { type Handler, messageOf, StorageError } from '../handlers/contract.ts';
import type { Outbox } from '../outbox/outbox.ts';
import { isAway } from '../outbox/reachability.ts';
import { bound } from './backoff.ts';

export interface RootWatchOptions {
  readonly roots: readonly string[];
  readonly handler: Pick<Handler, 'identify'>;
  readonly outbox: Pick<Outbox, 'rootIdentity' | 'recordRoot'>;
  /** Recorded as the one who saw the root first. */
  readonly worker: string;
  /** Longest that reading an identity may take, in ms. */
  readonly timeout: number;
  /** The database could not be asked: that says nothing of the roots. */
  readonly onTrouble: (doing: string, error: unknown) => void;
}

/** How often a root that is not the right one is looked at again, in ms. */
const RECHECK = { base: 250, cap: 5_000 };

export class RootWatch {
  readonly #options: RootWatchOptions;
  readonly #identities = new Map<string, string>();
  #problem: string | undefined;
  #checks = 0;
  #checkAt = 0;
  /** The problem is only that nobody could look yet. */
  #unknown = false;
  /** Rises when what a check that is under way has learned counts no more. */
  #generation = 0;

  constructor(options: RootWatchOptions) {
    this.#options = options;
    if (options.handler.identify !== undefined) this.#problem = 'not looked at yet';
  }

  /** Why the store must wait, or undefined when all its roots are the right ones. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /** The disks themselves are in doubt; else it is only that they could not be compared yet. */
  get suspicious(): boolean {
    return this.#problem !== undefined && !this.#unknown;
  }

  /** Milliseconds until `check` should be called; undefined when all is well. */
  get wait(): number | undefined {
    return this.#problem === undefined ? undefined : Math.max(0, this.#checkAt - performance.now());
  }

  identity(root: string): string | undefined {
    return this.#identities.get(root);
  }

  /** A handler found that a root is not the recorded one. */
  doubt(reason: string): void {
    this.#problem = reason;
    this.#unknown = false;
    this.#checks = 0;
    this.#postpone();
  }

  /** The database is another server, which may not have what was recorded: nothing is done in the roots before they have been compared. */
  lookAgain(): void {
    if (this.#options.handler.identify === undefined) return;
    this.#generation += 1;
    if (this.#problem === undefined) {
      this.#problem = 'another database server answers: not looked at again yet';
      this.#unknown = true;
    }
    this.#checks = 0;
    if (Number.isFinite(this.#checkAt)) this.#checkAt = 0;
  }

  /** Reads and compares all identities; a root that is seen for the first time is recorded. */
  async check(): Promise<void> {
    // Not again while this one is under way.
    this.#checkAt = Number.POSITIVE_INFINITY;
    const generation = this.#generation;
    try {
      for (const root of this.#options.roots) await this.#checkRoot(root);
      if (generation !== this.#generation) return;
      this.#problem = undefined;
      this.#checks = 0;
    } catch (error) {
      this.#problem = messageOf(error);
      this.#unknown = isAway(error);
      if (this.#unknown) this.#options.onTrouble('reading what is recorded of the roots', error);
    } finally {
      this.#postpone();
    }
  }

  #postpone(): void {
    this.#checks += 1;
    this.#checkAt = performance.now() + bound(this.#checks, RECHECK);
  }

  async #checkRoot(root: string): Promise<void> {
    const { handler, outbox, worker } = this.#options;
    if (handler.identify === undefined) return;
    // A database that was restored, or that had not received it, is told what this worker knows: whatever stands there now is not the first.
    const known = this.#identities.get(root);
    const recorded =
      (await outbox.rootIdentity(root)) ??
      (known === undefined ? undefined : await outbox.recordRoot(root, known, worker));
    const found = await this.#timed(handler.identify(root, { create: recorded === undefined }), root);
    const expected = recorded ?? (await outbox.recordRoot(root, found, worker));
    if (found !== expected) {
      throw new StorageError(
        'wrong_root',
        `the root ${root} is not the disk it was: expected the identity ${expected}, found ${found}. Mount the right one, or run \`afterdelete check --adopt ${root}\` to record what is there now`,
      );
    }
    this.#identities.set(root, expected);
  }

  async #timed<T>(work: Promise<T>, root: string): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        reject(
          new StorageError(
            'unavailable',
            `the root ${root} did not answer within ${this.#options.timeout / 1000} s`,
          ),
        );
      }, this.#options.timeout);
    });
    try {
      return await Promise.race([work, timeout]);
    } finally {
      clearTimeout(timer);
    }
  }
}
