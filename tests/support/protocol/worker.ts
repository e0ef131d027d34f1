/** A daemon, taken apart: what its loop does is done a step at a time, with the real floors, outbox and wake-up. */

import { isLeaseLost } from '../../../src/outbox/errors.ts';
import type { Outbox } from '../../../src/outbox/outbox.ts';
import type { ClaimedRow } from '../../../src/outbox/rows.ts';
import { WakeUp } from '../../../src/outbox/wake.ts';
import { Floors } from '../../../src/reconciler/floors.ts';
import type { Breakage } from './breakages.ts';
import { dueKey } from './checks.ts';
import type { Deed, DeedOf } from './deeds.ts';
import type { Lane } from './lane.ts';
import type { Snapshot } from './observer.ts';
import { type End, STORES } from './steps.ts';

export interface WorkerOptions {
  readonly name: string;
  readonly url: string;
  /** For what a daemon does outside any transaction that the model holds open. */
  readonly outbox: Outbox;
  readonly lanes: { claim: Lane; spare: Lane; readonly settle: Lane; readonly beat: Lane };
  readonly broken: Breakage['actors'];
  readonly onRegistered: () => void;
  readonly saw: (what: string) => void;
}

/** How a transaction ended, and what is committed since. */
export interface Ended {
  readonly how: End;
  readonly committed: boolean;
  readonly error: unknown;
  readonly now: Snapshot;
}

/** Where its loop stands: what comes next, see `src/reconciler/loop.ts`. */
type Phase = 'claim' | 'arm' | 'ask' | 'last claim' | 'asleep';

export class Worker {
  readonly #options: WorkerOptions;
  readonly wakeUp: WakeUp;
  #heardFence = 0;
  #onFence = () => {};
  /** Of its row; another after each loss. */
  id = '';
  floors = new Floors();
  phase: Phase = 'claim';
  /** What it believes to have in hand, and all it ever had. */
  hand: ClaimedRow[] = [];
  ever: ClaimedRow[] = [];
  armed: ReadonlySet<string> = new Set();
  rung = false;
  wakeAt = Number.POSITIVE_INFINITY;
  /** Rows that somebody had locked while it looked: they may lie below its floor, and it may sleep beside them. */
  excused = new Set<string>();
  passedBy = new Set<string>();
  mark = true;
  /** A claim that it no longer waits for. */
  abandoned: Deed | undefined;
  start = { sweep: true, settled: Number.NEGATIVE_INFINITY };

  constructor(options: WorkerOptions) {
    this.#options = options;
    this.wakeUp = new WakeUp({
      url: options.url,
      applicationName: options.name,
      notify: payload => options.outbox.notify(payload),
      onRing: payload => this.#heard(payload),
      onListening: () => {},
    });
  }

  get name(): string {
    return this.#options.name;
  }

  get lanes(): WorkerOptions['lanes'] {
    return this.#options.lanes;
  }

  #heard(payload: string): void {
    const fence = /^fence (\d+)$/.exec(payload);
    if (fence === null) this.rung = true;
    else this.#heardFence = Math.max(this.#heardFence, Number(fence[1]));
    this.#onFence();
  }

  /** All that was notified before this fence has been heard. */
  async fence(n: number): Promise<void> {
    if (this.#heardFence >= n) return;
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`${this.name} does not hear fence ${n}`)), 10_000);
      this.#onFence = () => {
        if (this.#heardFence < n) return;
        clearTimeout(timer);
        resolve();
      };
    });
  }

  async reset(now: () => number): Promise<void> {
    await this.wakeUp.disarm();
    this.floors = new Floors(now);
    this.hand = [];
    this.ever = [];
    this.rung = false;
    await this.register();
  }

  /** Another tenure begins: what the one before had in hand is none of its business. */
  async register(): Promise<void> {
    this.id = await this.#options.outbox.register({
      name: this.name,
      version: 'model',
      stores: STORES,
      roots: STORES.map(store => `${store}/`),
      lease: 3_600_000,
      history: 86_400_000,
    });
    this.#options.onRegistered();
    this.floors.fallBack();
    this.hand = [];
    this.wake();
  }

  get isAsleep(): boolean {
    return this.phase === 'asleep';
  }

  wake(): void {
    this.phase = 'claim';
    this.rung = false;
    this.wakeAt = Number.POSITIVE_INFINITY;
  }

  async arm(): Promise<void> {
    this.armed = new Set(await this.wakeUp.arm(STORES));
    this.phase = this.#options.broken === 'asks for the next due row last' ? 'last claim' : 'ask';
    if (this.armed.size > 0) this.#options.saw('armed');
    if (this.armed.size < STORES.length) this.#options.saw('a key that somebody has');
  }

  async ask(): Promise<void> {
    const ms = await this.#options.outbox.nextDue(STORES);
    if (ms !== undefined) this.wakeAt = performance.now() + Math.max(1, ms + 1);
    const last = ['sleeps without a second claim', 'asks for the next due row last'];
    this.phase = last.includes(this.#options.broken ?? '') ? 'asleep' : 'last claim';
  }

  async setMark(): Promise<void> {
    if (!this.floors.wantsMark) return;
    this.floors.marked(await this.#options.outbox.mark());
    this.#options.saw('marked');
  }

  /** How a transaction of it ended. */
  async heard(deed: Deed, { how, committed, error, now }: Ended): Promise<void> {
    switch (deed.kind) {
      case 'claim':
      case 'claim a suspect':
        if (this.abandoned === deed) return;
        if (deed.worker !== this.id) return void this.ever.push(...(committed ? deed.rows : []));
        if (isLeaseLost(error)) return await this.register();
        if (how !== 'commit') return this.failed();
        if (deed.kind === 'claim') return await this.claimed(deed, now);
        this.hand.push(...deed.rows);
        this.ever.push(...deed.rows);
        return this.wake();
      case 'settle': {
        if (how !== 'commit') return;
        if (deed.settled.length < new Set(deed.names).size) this.#options.saw('a settle of what is not held');
        this.hand = this.hand.filter(row => !deed.settlements.some(s => s.row === row));
        // What went back may be due soon. That room came free is no news to whom found nothing before it slept.
        if (this.isAsleep && deed.settlements.some(s => s.kind === 'back')) this.wake();
        return;
      }
      case 'heartbeat':
        if (how === 'commit' && !deed.alive && deed.worker === this.id) await this.register();
        return;
      case 'deregister':
        if (committed && deed.worker === this.id) await this.register();
        return;
    }
  }

  /** Its claim was committed, and it has heard of it. */
  async claimed(deed: DeedOf<'claim'>, now: Snapshot): Promise<void> {
    const { broken, saw } = this.#options;
    let full = false;
    if (broken === 'believes a mark it has not looked below') await this.setMark();
    const start =
      broken === 'believes a mark it has not looked below'
        ? { ...this.start, settled: this.floors.begin().settled }
        : this.start;
    for (const [store, room] of deed.rooms) {
      const mine = deed.rows.filter(row => row.store === store);
      full ||= mine.length > 0 && mine.length === room;
      if (deed.paused.has(store) && broken !== 'takes a paused store for an empty one') continue;
      const dues = mine.map(row => row.dueAt);
      const floor = this.floorOf(store);
      this.floors.claimed(store, dues, start);
      if (floor !== this.floorOf(store)) saw('a floor rose');
    }
    this.floors.ended(full);
    this.passedBy = new Set();
    for (const id of deed.overlap.keys())
      for (const row of [deed.before.rows.get(id), now.rows.get(id)])
        if (row?.state === 'pending') {
          this.passedBy.add(dueKey(row));
          this.excused.add(dueKey(row));
        }
    this.hand.push(...deed.rows);
    this.ever.push(...deed.rows);
    if (this.mark) await this.setMark();
    if (full || deed.rows.length > 0) this.phase = 'claim';
    else if (this.phase === 'claim') this.phase = 'arm';
    else if (broken === 'asks for the next due row last') this.phase = 'ask';
    else this.phase = 'asleep';
  }

  /** Gives its claim up, which goes on without it; false when it has none, or has given up another one. */
  abandon(): boolean {
    const { lanes } = this;
    if (!lanes.claim.active || lanes.spare.active) return false;
    this.abandoned = lanes.claim.deed;
    [lanes.claim, lanes.spare] = [lanes.spare, lanes.claim];
    this.failed();
    return true;
  }

  /** Its claim failed, or seems to have. */
  failed(): void {
    this.floors.fallBack();
    this.phase = 'claim';
  }

  /** Below it nothing is looked for; undefined: no floor yet. */
  floorOf(store: string): number | undefined {
    return this.floors.from(store, { sweep: true });
  }
}
