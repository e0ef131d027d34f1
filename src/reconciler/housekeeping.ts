/** What a worker does beside its rows, with every heartbeat: each task on its own, so that none holds up another. */
import pLimit from 'p-limit';
import type { Holders } from '../outbox/holders.ts';
import type { Outbox, WorkerPause } from '../outbox/outbox.ts';
import type { Neighbours } from './neighbours.ts';
import type { SchemaWatch } from './schema-watch.ts';
import type { Store } from './store.ts';

export interface HousekeepingOptions {
  readonly outbox: Outbox;
  readonly schema: Pick<SchemaWatch, 'check'>;
  readonly holders: Pick<Holders, 'extendWatches'>;
  readonly stores: readonly Store[];
  readonly neighbours: Neighbours;
  readonly onTrouble: (doing: string, error: unknown) => void;
  readonly onReaped: (reaped: { workers: number; moved: number; died: number }) => void;
}

/** How often the audit trail's partitions are looked after, in ms. */
const HISTORY = 3_600_000;
/**
 * How soon again after a failure, in ms. Not with every heartbeat: while it waits for the lock that somebody's long query
 * keeps from it, settles wait behind it.
 */
const HISTORY_RETRY = 300_000;

export class Housekeeping {
  readonly #options: HousekeepingOptions;
  readonly #oneAtATime = pLimit(1);
  /** What stands in the database of this worker's pauses; undefined: nobody knows. */
  #recorded: string | undefined;
  #recordedFor = '';
  #historyAt = Number.NEGATIVE_INFINITY;
  #unextended: string | undefined;
  #busy = false;
  #again = false;
  #ended = false;

  constructor(options: HousekeepingOptions) {
    this.#options = options;
  }

  /**
   * Wraps every claim, until what it brought is in the stores' hands: never beside a search for strays, which would take
   * its rows for some.
   */
  async claiming<T>(claim: () => Promise<T>): Promise<T> {
    return await this.#oneAtATime(claim);
  }

  async run(worker: string): Promise<void> {
    // A slow database must not pile rounds up; but what has changed since this one began needs another.
    this.#again = this.#busy;
    if (this.#busy) return;
    this.#busy = true;
    const { outbox, schema, stores } = this.#options;
    try {
      await this.#try('looking at the version of the schema', () => schema.check());
      await this.#try('storing progress', () => outbox.progress(stores.flatMap(store => store.progress())));
      await this.#try('recording pauses', () => this.#recordPauses(worker));
      await this.#try('reading pauses', () => this.#readPauses());
      await this.#try('taking over the rows of vanished workers', () => this.#reap());
      await this.#try('reading the roots of the other workers', () => this.#options.neighbours.refresh());
      await this.#try('taking new partitions into their watches', () => this.#extendWatches());
      await this.#try('maintaining the audit trail', () => this.#maintainHistory());
      // Last, because it waits for a claim to end.
      await this.#try('looking for rows that are not in hand', () => this.#handBackStrays(worker));
    } finally {
      this.#busy = false;
    }
    if (this.#again && !this.#ended) await this.run(worker);
  }

  /** The server is another one: what was recorded may not stand there. */
  recordAnew(): void {
    this.#recorded = undefined;
  }

  /** The worker ends: begins nothing more, and what is under way may fail, for the database is closed beneath it. */
  end(): void {
    this.#ended = true;
  }

  async #try(doing: string, work: () => Promise<unknown>): Promise<void> {
    if (this.#ended) return;
    try {
      await work();
    } catch (error) {
      if (!this.#ended) this.#options.onTrouble(doing, error);
    }
  }

  async #recordPauses(worker: string): Promise<void> {
    const pauses = this.#options.stores
      .map(store => store.pause)
      .filter((pause): pause is WorkerPause => pause !== undefined);
    const text = JSON.stringify(pauses);
    if (text === this.#recorded && worker === this.#recordedFor) return;
    const known = this.#recordedFor === worker;
    [this.#recorded, this.#recordedFor] = [text, worker];
    try {
      if (pauses.length > 0 || known) await this.#options.outbox.setPauses(worker, pauses);
    } catch (error) {
      this.#recorded = undefined;
      throw error;
    }
  }

  async #readPauses(): Promise<void> {
    const { outbox, stores } = this.#options;
    const asOf = performance.now();
    const pauses = await outbox.storePauses(stores.map(store => store.name));
    for (const store of stores)
      store.pausedForAll(
        pauses.find(pause => pause.store === store.name),
        asOf,
      );
  }

  async #reap(): Promise<void> {
    const reaped = await this.#options.outbox.reap();
    if (reaped.workers > 0 || reaped.moved > 0 || reaped.died > 0) this.#options.onReaped(reaped);
  }

  /**
   * The answer to a claim may have been lost, or the claim been given up and committed minutes later, when a lock or a
   * network let it: there is no telling until when. So every round looks.
   */
  async #handBackStrays(worker: string): Promise<void> {
    const { outbox, stores } = this.#options;
    await this.#oneAtATime(() =>
      outbox.handBackStrays(
        worker,
        stores.flatMap(store => store.rows()),
      ),
    );
  }

  /** What fails again in the same way is told once. */
  async #extendWatches(): Promise<void> {
    const failures = await this.#options.holders.extendWatches();
    if (failures === this.#unextended) return;
    this.#unextended = failures;
    if (failures !== undefined)
      throw new Error(`${failures}. \`afterdelete check\` names what is not captured`);
  }

  async #maintainHistory(): Promise<void> {
    if (performance.now() < this.#historyAt) return;
    this.#historyAt = performance.now() + HISTORY_RETRY;
    await this.#options.outbox.maintainHistory();
    this.#historyAt = performance.now() + HISTORY;
  }
}
