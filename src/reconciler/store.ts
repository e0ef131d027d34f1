/** One store as a worker serves it: what it has in hand, how much more it may claim, and whether it is paused. */
import type { EventEmitter } from 'node:events';
import pLimit, { type LimitFunction } from 'p-limit';
import {
  type Cleanup,
  type Handler,
  NOTHING,
  type Receipt,
  type Result,
  resultOf,
} from '../handlers/contract.ts';
import type { ClaimedRow, Outbox, Settlement, WorkerPause } from '../outbox/outbox.ts';
import { parseTarget } from '../target.ts';
import { formBatches } from './batch.ts';
import { Breaker } from './breaker.ts';
import { outsideMessage, rootOf } from './confine.ts';
import { createContext, type Tenure } from './context.ts';
import type { ReconcilerEvents } from './events.ts';
import type { Guard } from './guard.ts';
import type { Lease } from './lease.ts';
import { handBack, type OutcomePolicy, settlementOf, totalOf } from './outcome.ts';
import { RootWatch } from './roots.ts';
import type { Settler } from './settler.ts';

export interface StoreOptions {
  readonly store: string;
  readonly roots: readonly string[];
  readonly handler: Handler;
  readonly guard: Guard;
  readonly outbox: Pick<Outbox, 'rootIdentity' | 'recordRoot' | 'liveRoots'>;
  readonly lease: Lease;
  readonly settler: Settler;
  readonly events: EventEmitter<ReconcilerEvents>;
  readonly worker: string;
  /** Storage calls in flight. */
  readonly concurrency: number;
  /** Rows claimed and not yet settled. */
  readonly prefetch: number;
  readonly policy: OutcomePolicy;
  /** Longest a storage call may take, and what must be left of the lease besides, in ms. */
  readonly storageTimeout: number;
  readonly margin: number;
  /** Room came free, a pause ended, or a row will be due again: the loop should look. */
  readonly onChange: () => void;
  /** What this worker leaves alone has changed: the record in the database should too. */
  readonly onPause: () => void;
}

/** A row in hand. */
interface Held {
  readonly row: ClaimedRow;
  readonly tenure: Tenure;
  progress: Receipt;
  /** What this run deleted, and how long its batch took in the handler; known once it has run. */
  receipt: Receipt;
  ms: number;
}

type Task = Held & { readonly cleanup: Cleanup };

/** Most rows of one store that one claim asks for. */
const CLAIM = 1_000;
/** A row that another live worker's root contains is left to that one: it looks again within this time, in ms. */
const FOREIGN_WAIT = 1_000;

export class Store {
  readonly #options: StoreOptions;
  readonly #slots: LimitFunction;
  readonly #breaker = new Breaker();
  readonly #roots: RootWatch;
  readonly #held = new Map<string, Held>();
  #queue: Task[][] = [];
  #running = 0;
  #breakerReason = '';
  #rootPaused = false;
  #operator: 'operator' | 'fuse' | undefined;

  constructor(options: StoreOptions) {
    this.#options = options;
    this.#slots = pLimit(options.concurrency);
    this.#roots = new RootWatch({ ...options, timeout: options.storageTimeout });
  }

  get name(): string {
    return this.#options.store;
  }

  get inHand(): number {
    return this.#held.size;
  }

  /** How many rows to claim now. It waits until a good part is free: many small claims cost more than few large ones. */
  get room(): number {
    if (this.#operator !== undefined || this.#roots.problem !== undefined) return 0;
    if (this.#breaker.open) return this.#breaker.wait === 0 && this.inHand === 0 ? 1 : 0;
    const { prefetch } = this.#options;
    const free = prefetch - this.inHand;
    return free >= Math.min(prefetch, CLAIM) / 4 ? Math.min(free, CLAIM) : 0;
  }

  /** Milliseconds until this store needs to be looked at without being asked; undefined: never. */
  get wait(): number | undefined {
    return this.#roots.wait ?? (this.#breaker.open && this.inHand === 0 ? this.#breaker.wait : undefined);
  }

  /** What this worker leaves alone, for the record. */
  get pause(): WorkerPause | undefined {
    const store = this.name;
    if (this.#rootPaused) return { store, by: 'root', reason: this.#roots.problem ?? '' };
    if (this.#breaker.open) return { store, by: 'breaker', reason: this.#breakerReason };
    return undefined;
  }

  /** Rows in hand that have got somewhere since they were claimed, with their totals. */
  progress(): { row: ClaimedRow; objects: number | null; bytes: number | null }[] {
    return [...this.#held.values()]
      .filter(held => held.progress.objects > 0)
      .map(({ row, progress }) => ({ row, ...totalOf(row, progress) }));
  }

  /** The numbers of the claims of which rows are in hand. */
  claims(): string[] {
    return [...new Set([...this.#held.values()].map(held => held.row.claim))];
  }

  /** Takes claimed rows in hand. */
  accept(rows: readonly ClaimedRow[], tenure: Tenure): void {
    const tasks: Task[] = [];
    const foreign: ClaimedRow[] = [];
    for (const row of rows) {
      const held: Held = { row, tenure, progress: NOTHING, receipt: NOTHING, ms: 0 };
      this.#held.set(row.id, held);
      const root = rootOf(row.target, this.#options.roots);
      if (root === undefined) {
        foreign.push(row);
        continue;
      }
      const { id, pruneParents, attempt } = row;
      const cleanup: Cleanup = { id, target: parseTarget(row.target), root, pruneParents, attempt };
      tasks.push(Object.assign(held, { cleanup }));
    }
    if (foreign.length > 0) void this.#leave(foreign);
    this.#queue.push(...formBatches(tasks, this.#options.handler.batchSize));
    this.#pump();
  }

  #pump(): void {
    while (this.#running < this.#options.concurrency) {
      const batch = this.#queue.shift();
      if (batch === undefined) return;
      this.#running += 1;
      void this.#run(batch).finally(() => {
        this.#running -= 1;
        this.#pump();
      });
    }
  }

  /** Guard, handler, settle: the way of a batch. */
  async #run(batch: readonly Task[]): Promise<void> {
    const [first] = batch;
    if (first === undefined || first.tenure.ended) return;
    if (first.tenure.stopping || this.#rootPaused) return this.#handBack(batch);
    const { events, guard } = this.#options;
    let verdicts: Awaited<ReturnType<Guard>>;
    try {
      verdicts = await guard(batch.map(task => task.cleanup));
      if (verdicts.length !== batch.length)
        throw new Error(`the guard gave ${verdicts.length} verdicts for ${batch.length} cleanups`);
    } catch (error) {
      events.emit('trouble', {
        doing: `asking the guard about ${batch.length} cleanups of ${this.name}`,
        error,
      });
      const reason = `the guard cannot be asked: ${error instanceof Error ? error.message : String(error)}`;
      for (const task of batch) this.#settle(task, { ...NOTHING, outcome: 'blocked', error: reason });
      return;
    }
    const free: Task[] = [];
    batch.forEach((task, i) => {
      const verdict = verdicts[i];
      if (verdict === undefined || verdict.verdict === 'go') free.push(task);
      else if (verdict.verdict === 'kept') this.#keep(task, verdict.reason);
      else this.#settle(task, { ...NOTHING, outcome: 'blocked', error: verdict.reason });
    });
    if (free.length === 0) return;
    const started = performance.now();
    const results = await this.#delete(free, first.tenure);
    const ms = performance.now() - started;
    this.#judge(results);
    free.forEach((task, i) => {
      task.ms = ms;
      this.#settle(task, results[i] as Result);
    });
  }

  async #delete(tasks: readonly Task[], tenure: Tenure): Promise<readonly Result[]> {
    const { handler, lease, storageTimeout, margin, policy } = this.#options;
    const context = createContext({
      lease,
      tenure,
      slots: this.#slots,
      storageTimeout,
      margin,
      sliceEnd: performance.now() + policy.slice,
      identity: root => this.#roots.identity(root),
      onProgress: (id, receipt) => {
        const held = this.#held.get(id);
        if (held !== undefined) held.progress = receipt;
      },
    });
    try {
      const results = await handler.delete(
        tasks.map(task => task.cleanup),
        context,
      );
      if (results.length === tasks.length) return results;
      throw new Error(
        `the handler of ${handler.scheme}: gave ${results.length} results for ${tasks.length} cleanups`,
      );
    } catch (error) {
      return tasks.map(task => resultOf(error, task.progress));
    }
  }

  /** What the results say about the store itself. */
  #judge(results: readonly Result[]): void {
    const { events, onChange, onPause } = this.#options;
    const wrong = results.find(result => result.outcome === 'wrong_root');
    const down = results.find(result => result.outcome === 'unavailable');
    if (wrong !== undefined && 'error' in wrong) {
      this.#roots.doubt(wrong.error);
      this.#pauseRoot();
    } else if (down !== undefined && 'error' in down) {
      this.#breakerReason = down.error;
      if (this.#breaker.failure()) {
        events.emit('store_paused', { store: this.name, by: 'breaker', reason: down.error });
        this.#handBackQueued();
        onPause();
      }
      onChange();
    } else if (results.some(result => result.outcome !== 'yielded') && this.#breaker.success()) {
      events.emit('store_resumed', { store: this.name, by: 'breaker' });
      onPause();
      onChange();
    }
  }

  #settle(task: Held, result: Result): void {
    if (task.tenure.ended) return;
    task.receipt = result;
    const { policy, settler } = this.#options;
    const storeWait = this.#roots.wait ?? this.#breaker.wait;
    settler.add(settlementOf(task.row, result, policy, { stopping: task.tenure.stopping, storeWait }));
  }

  #keep(task: Held, note: string): void {
    const { row } = task;
    this.#options.settler.add({
      kind: 'done',
      row,
      outcome: 'kept',
      note,
      objects: row.objects,
      bytes: row.bytes,
    });
  }

  /** Rows inside no root of this worker: another live worker's, or nobody's. */
  async #leave(rows: readonly ClaimedRow[]): Promise<void> {
    const { outbox, settler, events } = this.#options;
    let live: string[];
    try {
      live = await outbox.liveRoots();
    } catch (error) {
      events.emit('trouble', { doing: 'reading the roots of the other workers', error });
      for (const row of rows) settler.add(handBack(row));
      return;
    }
    for (const row of rows) {
      const { objects, bytes } = row;
      const root = rootOf(row.target, live);
      if (root === undefined)
        settler.add({ kind: 'dead', row, objects, bytes, error: outsideMessage(row.target, live) });
      else {
        const error = `it lies inside ${root}, which another worker serves`;
        const delay = Math.random() * FOREIGN_WAIT;
        settler.add({ kind: 'back', row, reason: 'blocked', delay, error, objects, bytes });
      }
    }
  }

  #handBack(batch: readonly Held[]): void {
    for (const { row, tenure } of batch) if (!tenure.ended) this.#options.settler.add(handBack(row));
  }

  /** Puts back what has not been started. */
  #handBackQueued(): void {
    const queue = this.#queue;
    this.#queue = [];
    for (const batch of queue) this.#handBack(batch);
  }

  /** A row has left the hands of this worker; `held` is false when it had been taken over before. */
  settled(settlement: Settlement, held: boolean): void {
    const { row } = settlement;
    const task = this.#held.get(row.id);
    if (task?.row !== row) return;
    this.#held.delete(row.id);
    if (held) this.#report(task, settlement);
    else this.#options.events.emit('cleanup_fenced', { id: row.id, target: row.target, store: row.store });
    // A row that was put back notifies nobody: only this worker knows when it is due again.
    if (settlement.kind === 'back' || this.room > 0 || this.inHand === 0) this.#options.onChange();
  }

  #report({ row, receipt, ms }: Held, settlement: Settlement): void {
    const { events } = this.#options;
    const { id, target, store, attempt } = row;
    const event = { id, target, store, objects: receipt.objects, bytes: receipt.bytes, ms };
    if (settlement.kind === 'done') {
      const { outcome, note, objects: totalObjects, bytes: totalBytes } = settlement;
      const lag = row.waited + performance.now() - row.claimedAt;
      events.emit('cleanup_done', {
        ...event,
        attempt: attempt + 1,
        outcome,
        note,
        totalObjects,
        totalBytes,
        lag,
      });
    } else if (settlement.kind === 'dead') {
      events.emit('cleanup_dead', { ...event, attempt: attempt + 1, error: settlement.error });
    } else {
      const error = settlement.error ?? '';
      const nextAttemptAt = new Date(Date.now() + settlement.delay);
      if (settlement.reason === 'retry')
        events.emit('cleanup_retry', { ...event, attempt: attempt + 1, error, nextAttemptAt });
      if (settlement.reason === 'blocked')
        events.emit('cleanup_blocked', { ...event, attempt, error, nextAttemptAt });
      if (settlement.reason === 'yielded') events.emit('cleanup_yielded', { ...event, attempt });
    }
  }

  /** The daemon stops: hands back what has not been started. What runs is finished, or yields. */
  stop(): void {
    this.#handBackQueued();
  }

  /** The lease is lost: what was in hand is others'. */
  forget(): void {
    this.#queue = [];
    this.#held.clear();
  }

  /** Looks again whether the roots are the right ones, if it is time to. */
  async checkRoots(): Promise<void> {
    if (this.#roots.wait !== 0) return;
    await this.#roots.check();
    if (this.#roots.problem !== undefined) this.#pauseRoot();
    else if (this.#rootPaused) {
      this.#rootPaused = false;
      this.#options.events.emit('store_resumed', { store: this.name, by: 'root' });
      this.#options.onPause();
    }
    this.#options.onChange();
  }

  #pauseRoot(): void {
    if (!this.#rootPaused) {
      this.#rootPaused = true;
      this.#options.onPause();
      this.#options.events.emit('store_paused', {
        store: this.name,
        by: 'root',
        reason: this.#roots.problem ?? '',
      });
    }
    this.#handBackQueued();
    this.#options.onChange();
  }

  /** What the database says about a pause for all workers. */
  pausedByOperator(pause: { by: 'operator' | 'fuse'; reason: string | null } | undefined): void {
    if (pause?.by === this.#operator) return;
    const { events } = this.#options;
    if (this.#operator !== undefined) events.emit('store_resumed', { store: this.name, by: this.#operator });
    this.#operator = pause?.by;
    if (pause !== undefined) {
      events.emit('store_paused', {
        store: this.name,
        by: pause.by,
        reason: pause.reason ?? 'no reason given',
      });
      this.#handBackQueued();
    }
    this.#options.onChange();
  }
}
