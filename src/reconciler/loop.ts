/** The claim loop: the one place that owns time. It claims while there is something to claim, arms, claims again, sleeps. */
import type { EventEmitter } from 'node:events';
import { isLeaseLost, isSchemaError } from '../outbox/errors.ts';
import type { Beat, Outbox } from '../outbox/outbox.ts';
import type { WakeUp } from '../outbox/wake.ts';
import type { Tenure } from './context.ts';
import type { ReconcilerEvents } from './events.ts';
import { Floors } from './floors.ts';
import type { Housekeeping } from './housekeeping.ts';
import type { Lease } from './lease.ts';
import { Linger } from './linger.ts';
import type { Neighbours } from './neighbours.ts';
import { POLL_ONLY_MAX } from './options.ts';
import type { Signal } from './signal.ts';
import type { Store } from './store.ts';

/** `ring`: a row may have come. `change`: room came free, a pause ended, or the loop should stop. */
export type Ring = 'ring' | 'change';

export interface LoopOptions {
  readonly outbox: Outbox;
  readonly lease: Lease;
  readonly stores: readonly Store[];
  readonly housekeeping: Housekeeping;
  readonly neighbours: Neighbours;
  /** Left out: poll only. */
  readonly wakeUp: WakeUp | undefined;
  readonly signal: Signal<Ring>;
  readonly events: EventEmitter<ReconcilerEvents>;
  /** Safety poll, in ms. */
  readonly poll: number;
}

/** How long what was claimed has the database to itself, in ms. */
const BEFORE_QUESTIONS = 2;
/** Waits between tries to arm a store whose key somebody else has, in ms. */
const ARM_MIN = 5;
const ARM_FAST_MAX = 200;
const ARM_SLOW = 1_000;
/** Waits after a failed claim, in ms. */
const TROUBLE_MIN = 100;
const TROUBLE_MAX = 5_000;
/** Rows that may kill their worker are run alone, so many at a time; then the others have their turn. */
const SUSPECTS_AT_A_TIME = 100;
/** Without a ring a suspect's end is looked for so often, in ms. */
const IDLE_CHECK = 1_000;

export class Loop {
  readonly #options: LoopOptions;
  readonly #linger = new Linger();
  readonly #floors = new Floors();
  #tenure: Tenure = { ended: false, stopping: false };
  #suspects = false;
  /** Some store had no room when it was last looked at. */
  #lacksRoom = false;
  #waitsForIdle = false;
  #armWait = ARM_MIN;
  #trouble: string | undefined;
  #troubleSince = 0;
  /** In microseconds since 1970, as last told. */
  #clock = Number.NEGATIVE_INFINITY;

  constructor(options: LoopOptions) {
    this.#options = options;
  }

  /** What a worker may do now; a new one after each loss of the lease. */
  get tenure(): Tenure {
    return this.#tenure;
  }

  /** Why the last turn failed, or undefined when it did not. */
  get trouble(): string | undefined {
    return this.#trouble;
  }

  /** A writer has notified. */
  notified(): void {
    this.#linger.notified();
    this.#options.signal.ring('ring');
  }

  /** Rows wait that must run with nothing else in hand. */
  suspect(): void {
    if (this.#suspects) return;
    this.#suspects = true;
    this.#options.signal.ring('change');
  }

  /** Rows have left the hands of a store. To whom had room before, and finds nothing to claim, that is no news. */
  roomCame(): void {
    if (this.#lacksRoom || this.#waitsForIdle || this.#tenure.stopping) this.#options.signal.ring('change');
  }

  /** Gets a worker row, and with it a new tenure: what the one before claimed is none of its business. */
  async register(): Promise<void> {
    await this.#options.lease.acquire();
    this.#floors.fallBack();
    this.#tenure = { ended: false, stopping: this.#tenure.stopping };
  }

  /** Runs until the tenure says that the daemon stops. Never rejects. */
  async run(): Promise<void> {
    const { lease, events, signal } = this.#options;
    let wait = TROUBLE_MIN;
    while (!this.#tenure.stopping) {
      try {
        await this.#turn();
        wait = TROUBLE_MIN;
      } catch (error) {
        if (this.#tenure.stopping) return;
        if (isLeaseLost(error)) {
          lease.lost();
          continue;
        }
        // A claim that failed may have been rolled back, and have kept others from its rows.
        this.#floors.fallBack();
        if (this.#trouble === undefined) this.#troubleSince = performance.now();
        this.#trouble = error instanceof Error ? error.message : String(error);
        const doing = isSchemaError(error) ? 'claiming (is the schema of another version?)' : 'claiming';
        events.emit('trouble', { doing, error });
        await signal.wait(wait * (0.5 + Math.random()));
        wait = Math.min(2 * wait, TROUBLE_MAX);
      }
    }
  }

  async #turn(): Promise<void> {
    const { lease, stores, wakeUp, events } = this.#options;
    if (lease.worker === undefined) await this.register();
    for (const store of stores) void store.checkRoots();
    if (this.#suspects) await this.#runSuspects();
    // The ring that told of it was for those who waited in there.
    if (this.#tenure.ended) return;

    const { rows, full } = await this.claim();
    if (this.#floors.wantsMark) this.#floors.marked(await this.#options.outbox.mark());
    if (full) {
      void wakeUp?.disarm();
      // With room for more, claim again at once; without, wait until some comes free.
      if (this.#rooms().size > 0) events.emit('wakeup', { cause: 'full' });
      else await this.#sleep(await this.#sleepTime([], new Set()));
      return;
    }
    const pause = this.#linger.pause;
    if (pause > 0) {
      // Rows come so fast that each would be notified: look again soon instead, and spare the writers NOTIFY.
      await wakeUp?.disarm();
      await this.#sleep(pause);
      return;
    }
    // What was claimed is begun first: the questions before a sleep would compete with the guard's.
    if (rows > 0 && (await this.#rung(BEFORE_QUESTIONS)) !== undefined) return;
    const served = [...this.#rooms().keys()];
    const armed = (await wakeUp?.arm(served)) ?? new Set();
    // In this order: a row that falls due after one question was asked is the answer to the next. The other way round,
    // one that falls due between the claim and the question would be the answer to neither.
    const ms = await this.#sleepTime(served, armed);
    if ((await this.claim()).rows > 0) return;
    await this.#sleep(ms);
  }

  /**
   * Claims once, as much as there is room for, and hands it to the stores; nothing once the daemon stops. `full`: some store may have
   * more.
   */
  async claim(): Promise<{ rows: number; full: boolean }> {
    const { outbox, lease, stores, housekeeping, neighbours } = this.#options;
    const worker = lease.worker;
    const tenure = this.#tenure;
    return await housekeeping.claiming(async () => {
      const rooms = this.#rooms();
      if (tenure.stopping) return { rows: 0, full: false };
      if (rooms.size === 0 || worker === undefined) {
        this.#recovered();
        return { rows: 0, full: false };
      }
      const start = this.#floors.begin();
      const { rows, paused } = await outbox.claim(
        worker,
        rooms,
        neighbours.roots,
        this.#floorsOf(rooms, start),
      );
      this.#recovered();
      // The lease was lost meanwhile: these rows will be reaped with the others.
      if (tenure.ended) return { rows: 0, full: false };
      this.#linger.claimed(rows.length);
      let full = false;
      const byStore = Map.groupBy(rows, row => row.store);
      for (const store of stores) {
        const mine = byStore.get(store.name) ?? [];
        full ||= mine.length > 0 && mine.length === rooms.get(store.name);
        if (rooms.has(store.name) && !paused.has(store.name))
          this.#floors.claimed(
            store.name,
            mine.map(row => row.dueAt),
            start,
          );
        if (mine.length > 0) store.accept(mine, tenure);
      }
      this.#floors.ended(full);
      return { rows: rows.length, full };
    });
  }

  #floorsOf(rooms: ReadonlyMap<string, number>, start: { sweep: boolean }): Map<string, number> {
    const floors = [...rooms.keys()].map(store => [store, this.#floors.from(store, start)] as const);
    return new Map(floors.filter((entry): entry is [string, number] => entry[1] !== undefined));
  }

  /**
   * What a heartbeat tells of the server. Its clock, set back while nothing was to be done, would be seen in no mark; and a server that
   * took over between two statements has rows that the one before it had not any more.
   */
  heard({ moment, server }: Pick<Beat, 'moment' | 'server'>): void {
    if (moment < this.#clock || !this.#floors.areOf(server)) this.fallBack();
    this.#clock = moment;
  }

  /** Rows may lie anywhere again: a worker vanished, or what others serve has changed. */
  fallBack(): void {
    this.#floors.fallBack();
    this.#options.signal.ring('change');
  }

  #recovered(): void {
    if (this.#trouble === undefined) return;
    this.#trouble = undefined;
    this.#options.events.emit('recovered', { ms: performance.now() - this.#troubleSince });
  }

  #rooms(): Map<string, number> {
    const rooms = this.#options.stores.map(store => [store.name, store.room] as const);
    const free = rooms.filter(([, room]) => room > 0);
    this.#lacksRoom = free.length < rooms.length;
    return new Map(free);
  }

  /** Rows that were in hand three times when a worker vanished: each with nothing else in hand. */
  async #runSuspects(): Promise<void> {
    const { outbox, lease, stores, housekeeping, signal } = this.#options;
    const tenure = this.#tenure;
    const over = () => tenure.stopping || tenure.ended;
    const idle = async () => {
      this.#waitsForIdle = true;
      while (stores.some(store => store.inHand > 0) && !over()) await signal.wait(IDLE_CHECK);
      this.#waitsForIdle = false;
    };
    // What has not been started need not be waited for; others may do it meanwhile.
    for (const store of stores) store.handBackQueued();
    await idle();
    this.#suspects = false;
    for (let i = 0; i < SUSPECTS_AT_A_TIME && !over(); i++) {
      const worker = lease.worker;
      const served = [...this.#rooms().keys()];
      if (worker === undefined || served.length === 0) return;
      const found = await housekeeping.claiming(async () => {
        if (over()) return false;
        const row = await outbox.claimSuspect(worker, served);
        // With the lease lost meanwhile it will be reaped.
        if (row !== undefined && !tenure.ended)
          stores.find(store => store.name === row.store)?.accept([row], tenure);
        return row !== undefined;
      });
      if (!found) return;
      await idle();
    }
  }

  #poll(): number {
    const { poll, wakeUp } = this.#options;
    const longest = wakeUp?.listening ? poll : Math.min(poll, POLL_ONLY_MAX);
    // Daemons that were started together should not poll together.
    return longest * (0.9 + 0.1 * Math.random());
  }

  async #sleepTime(served: readonly string[], armed: ReadonlySet<string>): Promise<number> {
    const { outbox, stores, wakeUp } = this.#options;
    const times = [this.#poll()];
    if (served.length > 0) {
      const due = await outbox.nextDue(served);
      // A millisecond later than PostgreSQL's microseconds say, or it would wake up just too early.
      if (due !== undefined) times.push(Math.max(1, due + 1));
    }
    // A served store whose probe may be sent has no row for it: that comes as any other does.
    for (const { name, wait } of stores)
      if (wait !== undefined && !served.includes(name)) times.push(wait + 1);
    if (wakeUp?.listening) {
      if (served.every(store => armed.has(store))) this.#armWait = ARM_MIN;
      else {
        times.push(this.#armWait);
        this.#armWait = this.#armWait < ARM_FAST_MAX ? 2 * this.#armWait : ARM_SLOW;
      }
    }
    return Math.min(...times);
  }

  /** Waits for a ring, and tells of one that came by notification. */
  async #rung(ms: number): Promise<Ring | undefined> {
    const ring = await this.#options.signal.wait(ms);
    if (ring === 'ring') this.#options.events.emit('wakeup', { cause: 'notify' });
    return ring;
  }

  async #sleep(ms: number): Promise<void> {
    if (this.#tenure.stopping) return;
    const { events, wakeUp, poll } = this.#options;
    if ((await this.#rung(ms)) !== undefined) return;
    events.emit('wakeup', { cause: 'timer' });
    // A safety poll also proves that notifications would have come.
    if (ms >= poll * 0.9) void wakeUp?.verify();
  }
}
