/** One store as a worker serves it: what it has in hand, and how much more it may claim. */
import type { EventEmitter } from 'node:events';
import pLimit, { type LimitFunction } from 'p-limit';
import { type Cleanup, type Context, type Handler, NOTHING, type Receipt } from '../handlers/contract.ts';
import type { Outbox, StorePause, WorkerPause } from '../outbox/outbox.ts';
import type { ClaimedRow, Settlement } from '../outbox/rows.ts';
import { parseTarget } from '../target.ts';
import { formBatches } from './batch.ts';
import { rootOf } from './confine.ts';
import { createContext, type Tenure } from './context.ts';
import { dispatch, NOT_NOW, type Outcome } from './dispatch.ts';
import type { ReconcilerEvents } from './events.ts';
import { settleForeign } from './foreign.ts';
import { Fuse, type FuseOptions } from './fuse.ts';
import type { Guard } from './guard.ts';
import type { Lease } from './lease.ts';
import type { Neighbours } from './neighbours.ts';
import { handBack, type OutcomePolicy, settlementOf, totalOf } from './outcome.ts';
import { Pauses } from './pauses.ts';
import type { Rate } from './rate.ts';
import { type Run, report } from './report.ts';
import type { Settler } from './settler.ts';

export interface StoreOptions {
  readonly store: string;
  readonly roots: readonly string[];
  readonly handler: Handler;
  readonly guard: Guard;
  readonly outbox: Pick<Outbox, 'rootIdentity' | 'recordRoot'>;
  readonly neighbours: Neighbours;
  readonly lease: Lease;
  readonly settler: Settler;
  readonly events: EventEmitter<ReconcilerEvents>;
  readonly worker: string;
  /** Storage calls in flight. */
  readonly concurrency: number;
  /** Rows or objects a second; left out: as many as can be. */
  readonly rate: Rate | undefined;
  /** Rows claimed and not yet settled. */
  readonly prefetch: number;
  readonly policy: OutcomePolicy;
  /** Most cleanups of a root within a window; left out: there is no fuse. */
  readonly fuse: Pick<FuseOptions, 'limit' | 'spending'> | undefined;
  /** Longest a storage call may take, and what must be left of the lease besides, in ms. */
  readonly storageTimeout: number;
  readonly margin: number;
  /** A pause ended, or a row will be due again: the loop should look. */
  readonly onChange: () => void;
  /** A row has left: there is room for another, and perhaps nothing in hand any more. */
  readonly onRoom: () => void;
  /** What this worker leaves alone has changed: the record in the database should too. */
  readonly onPause: () => void;
}

/** A row in hand. */
interface Held {
  readonly row: ClaimedRow;
  readonly tenure: Tenure;
  /** How far it has come, while it runs. */
  progress: Receipt;
  /** What this run did, once it has run. */
  run: Run;
  /** Undefined until it is known to lie inside a root of this worker. */
  cleanup: Cleanup | undefined;
}

type Task = Held & { readonly cleanup: Cleanup };

const NOT_RUN: Run = { receipt: NOTHING, ms: 0 };

/** Most rows of one store that one claim asks for. */
const CLAIM = 1_000;
/** So many seconds' worth of rows a store with a rate has in hand at most. */
const RATED_AHEAD = 10;

export class Store {
  readonly #options: StoreOptions;
  readonly #slots: LimitFunction;
  readonly #pauses: Pauses;
  readonly #fuse: Fuse | undefined;
  readonly #held = new Map<string, Held>();
  #queue: Task[][] = [];
  #running = 0;
  #rateTimer: NodeJS.Timeout | undefined;

  constructor(options: StoreOptions) {
    this.#options = options;
    this.#slots = pLimit(options.concurrency);
    const onTrouble = (doing: string, error: unknown) => this.#trouble(doing, error);
    this.#pauses = new Pauses({ ...options, onTrouble, handBackQueued: () => this.handBackQueued() });
    this.#fuse =
      options.fuse &&
      new Fuse({
        ...options.fuse,
        store: options.store,
        onPaused: pause => this.#pauses.forAll(pause, performance.now()),
        onTrouble,
      });
  }

  get name(): string {
    return this.#options.store;
  }

  get inHand(): number {
    return this.#held.size;
  }

  /** How many rows to claim now. It waits until a good part is free: many small claims cost more than few large ones. */
  get room(): number {
    const { admits } = this.#pauses;
    if (admits !== 'all') return admits === 'probe' && this.inHand === 0 ? 1 : 0;
    const { rate } = this.#options;
    const prefetch = Math.min(
      this.#options.prefetch,
      rate === undefined ? Infinity : RATED_AHEAD * Math.ceil(rate.perSecond),
    );
    const free = prefetch - this.inHand;
    return free >= Math.min(prefetch, CLAIM) / 4 ? Math.min(free, CLAIM) : 0;
  }

  /** Milliseconds until this store needs to be looked at without being asked; undefined: never. */
  get wait(): number | undefined {
    return this.#pauses.wait(this.inHand === 0);
  }

  /** Why this worker leaves the store alone by itself, for the record. */
  get pause(): WorkerPause | undefined {
    return this.#pauses.own;
  }

  /** Rows in hand that have got somewhere since they were claimed, with their totals. */
  progress(): { row: ClaimedRow; objects: number | null; bytes: number | null }[] {
    return [...this.#held.values()]
      .filter(held => held.progress.objects > 0)
      .map(({ row, progress }) => ({ row, ...totalOf(row, progress) }));
  }

  /** The rows in hand. */
  rows(): ClaimedRow[] {
    return [...this.#held.values()].map(held => held.row);
  }

  /** Takes claimed rows in hand. After a large claim the loop sends the next one first: the database need not wait. */
  accept(rows: readonly ClaimedRow[], tenure: Tenure): void {
    const accepted: Held[] = [];
    for (const row of rows) {
      const held: Held = { row, tenure, progress: NOTHING, run: NOT_RUN, cleanup: undefined };
      this.#held.set(row.id, held);
      accepted.push(held);
    }
    if (rows.length < CLAIM / 2) this.#begin(accepted);
    else setImmediate(() => !tenure.ended && this.#begin(accepted));
  }

  #begin(accepted: readonly Held[]): void {
    const tasks: Task[] = [];
    const foreign: Held[] = [];
    for (const held of accepted) {
      const { row } = held;
      const root = rootOf(row.target, this.#options.roots);
      if (root === undefined) {
        foreign.push(held);
        continue;
      }
      const { id, pruneParents, attempt } = row;
      const dueSince = row.claimedAt - row.waited;
      held.cleanup = { id, target: parseTarget(row.target), root, pruneParents, attempt, dueSince };
      tasks.push(held as Task);
    }
    if (foreign.length > 0) void settleForeign(foreign, this.#options);
    const { handler, rate } = this.#options;
    this.#queue.push(
      ...formBatches(tasks, Math.min(handler.batchSize, Math.ceil(rate?.perSecond ?? Infinity))),
    );
    this.#pump();
  }

  #pump(): void {
    while (this.#running < this.#options.concurrency && this.#queue.length > 0 && this.#isInRate()) {
      const batch = this.#queue.shift() as Task[];
      this.#running += 1;
      void this.#run(batch).finally(() => {
        this.#running -= 1;
        this.#pump();
      });
    }
  }

  /** Whether the rate lets another batch go now; else it is looked at again when it does. */
  #isInRate(): boolean {
    const wait = this.#options.rate?.wait ?? 0;
    if (wait > 0)
      this.#rateTimer ??= setTimeout(() => {
        this.#rateTimer = undefined;
        this.#pump();
      }, wait);
    return wait === 0;
  }

  /** Carries a batch out and has it settled. */
  async #run(batch: readonly Task[]): Promise<void> {
    const [first] = batch;
    if (first === undefined || first.tenure.ended) return;
    // A claim that was under way when a pause began brings more than may be started now.
    if (first.tenure.stopping || this.#pauses.admits === 'nothing') return this.#handBack(batch);
    const pausedBefore = this.#pauses.now;
    const { guard, handler } = this.#options;
    const cleanups = batch.map(task => task.cleanup);
    // Not #held: by the time this run ends or tells of its progress, its lease may be lost and a row of it in hand anew.
    const tasks = new Map(batch.map(task => [task.row.id, task]));
    // A row counts as one at least; what it deletes beyond that counts when it is known.
    this.#options.rate?.spend(batch.length);
    const { outcomes, handled, ms } = await dispatch(cleanups, {
      guard,
      // A batch is of one claim.
      claim: first.row.claim,
      // A row that probes a store that is down goes all the same.
      mayStart: () => !first.tenure.stopping && [undefined, pausedBefore].includes(this.#pauses.now),
      gate: this.#fuse?.gate(id => (tasks.get(id)?.row.objects ?? 0) > 0),
      handler,
      context: this.#context(first.tenure, tasks),
      progressOf: id => tasks.get(id)?.progress ?? NOTHING,
      onTrouble: (doing, error) => this.#trouble(doing, error),
      // The next heartbeat tells everybody: here it is.
      onOtherServer: () => void this.#options.lease.beat(),
    });
    this.#pauses.judge(handled);
    batch.forEach((task, i) => {
      const { objects } = outcomes[i] as Outcome;
      this.#options.rate?.spend(Math.max(0, objects - Math.max(task.progress.objects, 1)));
      task.run = { receipt: outcomes[i] as Outcome, ms };
      this.#settle(task, outcomes[i] as Outcome);
    });
  }

  #trouble(doing: string, error: unknown): void {
    this.#options.events.emit('trouble', { doing: `${doing} of ${this.name}`, error });
  }

  #context(tenure: Tenure, tasks: ReadonlyMap<string, Task>): Context {
    const { lease, storageTimeout, margin, policy, rate } = this.#options;
    return createContext({
      lease,
      tenure,
      slots: this.#slots,
      storageTimeout,
      margin,
      sliceEnd: performance.now() + policy.slice,
      rate: [...tasks.values()].some(task => task.cleanup.target.tree) ? rate : undefined,
      identity: root => this.#pauses.identity(root),
      onProgress: (id, receipt) => {
        const task = tasks.get(id);
        if (task === undefined) return;
        rate?.spend(Math.max(receipt.objects, 1) - Math.max(task.progress.objects, 1));
        task.progress = receipt;
      },
    });
  }

  #settle({ row, tenure }: Held, outcome: Outcome): void {
    if (tenure.ended) return;
    const { policy, settler } = this.#options;
    const { storeWait } = this.#pauses;
    settler.add(settlementOf(row, outcome, policy, { stopping: tenure.stopping, storeWait }));
  }

  #handBack(batch: readonly Held[], delay = 0): void {
    for (const { row, tenure } of batch) if (!tenure.ended) this.#options.settler.add(handBack(row, delay));
  }

  /** Puts back what has not been started, to be claimed after a delay, in ms; what runs is finished, or yields. */
  handBackQueued(delay = 0): void {
    const queue = this.#queue;
    this.#queue = [];
    for (const batch of queue) this.#handBack(batch, delay);
  }

  /** The database is another server: it may know nothing of what was claimed, nor of the roots. */
  onOtherServer(): void {
    this.handBackQueued(NOT_NOW);
    this.#pauses.lookAgain();
  }

  /** A row has left the hands of this worker; `held` is false when it had been taken over before. */
  settled(settlement: Settlement, held: boolean): void {
    const { row } = settlement;
    const task = this.#held.get(row.id);
    if (task?.row !== row) return;
    this.#held.delete(row.id);
    if (held) report(this.#options.events, settlement, task.run);
    else this.#options.events.emit('cleanup_fenced', { id: row.id, target: row.target, store: row.store });
    // A row that was put back notifies nobody: only this worker knows when it is due again.
    if (settlement.kind === 'back') this.#options.onChange();
    else if (this.room > 0 || this.inHand === 0) this.#options.onRoom();
  }

  /** The lease is lost: what was in hand is others'. */
  forget(): void {
    this.#queue = [];
    this.#held.clear();
  }

  /** Looks again whether the roots are the right ones, if it is time to. */
  async checkRoots(): Promise<void> {
    await this.#pauses.checkRoots();
  }

  /** What the database, asked at `asOf`, says about a pause for all workers. */
  pausedForAll(pause: StorePause | undefined, asOf: number): void {
    this.#pauses.forAll(pause, asOf);
  }
}
