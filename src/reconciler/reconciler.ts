/**
 * The daemon's heart: wake, claim, hand out, settle, again. One loop owns time; `runOnce` owns work, and tests call it.
 */
import { randomBytes } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { hostname } from 'node:os';
import { type Database, openDatabase } from '../outbox/database.ts';
import { isLeaseLost, isSchemaError } from '../outbox/errors.ts';
import { assertSchema } from '../outbox/migrate.ts';
import { Outbox } from '../outbox/outbox.ts';
import { WakeUp } from '../outbox/wake.ts';
import { storeOf } from '../target.ts';
import { VERSION } from '../version.ts';
import type { Tenure } from './context.ts';
import type { ReconcilerEvents } from './events.ts';
import { noHolders } from './guard.ts';
import { Housekeeping } from './housekeeping.ts';
import { Lease } from './lease.ts';
import { Linger } from './linger.ts';
import { POLL_ONLY_MAX, type ReconcilerOptions, resolveSettings, type Settings } from './options.ts';
import { Settler } from './settler.ts';
import { Signal } from './signal.ts';
import { Store } from './store.ts';

export type Readiness = { readonly ok: true } | { readonly ok: false; readonly reason: string };

/** `ring`: a row may have come. `change`: room came free, a pause ended, or the loop should stop. */
type Ring = 'ring' | 'change';

/** Waits between tries to arm a store whose key somebody else has, in ms. */
const ARM_MIN = 5;
const ARM_FAST_MAX = 200;
const ARM_SLOW = 1_000;
/** Waits after a failed claim, in ms. */
const TROUBLE_MIN = 100;
const TROUBLE_MAX = 5_000;
/** Rows that may kill their worker are run alone, so many at a time; then the others have their turn. */
const SUSPECTS_AT_A_TIME = 100;

export class Reconciler {
  readonly events = new EventEmitter<ReconcilerEvents>();
  readonly name: string;
  readonly outbox: Outbox;
  readonly #settings: Settings;
  readonly #db: Database;
  readonly #lease: Lease;
  readonly #settler: Settler;
  readonly #stores: ReadonlyMap<string, Store>;
  readonly #housekeeping: Housekeeping;
  readonly #wakeUp: WakeUp | undefined;
  readonly #signal = new Signal<Ring>();
  readonly #linger = new Linger();
  #tenure: Tenure = { ended: false, stopping: false };
  #suspects = false;
  #loop: Promise<void> | undefined;
  #stopping: Promise<void> | undefined;
  #armWait = ARM_MIN;
  #trouble: string | undefined = 'not started yet';

  constructor(options: ReconcilerOptions) {
    const settings = resolveSettings(options, noHolders);
    this.#settings = settings;
    this.name = options.name ?? `${hostname()}/${process.pid}/${randomBytes(3).toString('hex')}`;
    const applicationName = `afterdelete ${this.name}`;
    const onTrouble = (doing: string, error: unknown) => void this.events.emit('trouble', { doing, error });
    this.#db = openDatabase(settings.databaseUrl, {
      applicationName,
      onError: error => onTrouble('keeping a connection open', error),
    });
    this.outbox = new Outbox(this.#db);
    const { lease, history, stores, roots } = settings;
    this.#lease = new Lease({
      outbox: this.outbox,
      worker: { name: this.name, version: VERSION, stores, roots, lease, history },
      onBeat: ({ suspects }) => this.#onBeat(suspects),
      onLost: () => this.#onLeaseLost(),
      onTrouble,
    });
    this.#settler = new Settler({
      outbox: this.outbox,
      worker: this.name,
      history: history > 0,
      onSettled: (settlement, held) => this.#stores.get(settlement.row.store)?.settled(settlement, held),
      onRefused: settlement => {
        this.#housekeeping.doubt();
        this.#stores.get(settlement.row.store)?.settled(settlement, false);
      },
      onTrouble,
    });
    this.#stores = new Map(stores.map(store => [store, this.#createStore(store)]));
    this.#housekeeping = new Housekeeping({
      outbox: this.outbox,
      stores: [...this.#stores.values()],
      lease,
      onTrouble,
      onReaped: reaped => void this.events.emit('reaped', reaped),
    });
    if (settings.listenUrl !== 'off') {
      this.#wakeUp = new WakeUp({
        url: settings.listenUrl,
        applicationName,
        notify: payload => this.outbox.notify(payload),
        onRing: payload => {
          if (payload === 'pauses') void this.#lease.beat();
          this.#signal.ring('ring');
        },
        onListening: (listening, reason) => {
          if (listening) this.events.emit('listen_restored');
          else this.events.emit('listen_lost', { reason });
          // What was notified in between is lost by nature.
          this.#signal.ring('change');
        },
      });
    }
  }

  #createStore(store: string): Store {
    const { roots, handlers, guard, concurrency, storeConcurrency, prefetch, storageTimeout, margin } =
      this.#settings;
    const { maxAttempts, retryBase, retryCap, slice } = this.#settings;
    const handler = handlers.find(h => store.startsWith(`${h.scheme}://`));
    if (handler === undefined) throw new TypeError(`no handler for ${store}`);
    return new Store({
      store,
      roots: roots.filter(root => storeOf(root) === store),
      handler,
      guard,
      outbox: this.outbox,
      lease: this.#lease,
      settler: this.#settler,
      events: this.events,
      worker: this.name,
      concurrency: storeConcurrency.get(store) ?? concurrency,
      prefetch,
      policy: { maxAttempts, backoff: { base: retryBase, cap: retryCap }, slice },
      storageTimeout,
      margin,
      onChange: () => this.#signal.ring('change'),
      onPause: () => void this.#lease.beat(),
    });
  }

  /** Stores that this worker serves. */
  get stores(): readonly string[] {
    return this.#settings.stores;
  }

  /** Rows claimed and not yet settled. */
  get inHand(): number {
    return this.#all.reduce((sum, store) => sum + store.inHand, 0);
  }

  get #all(): Store[] {
    return [...this.#stores.values()];
  }

  /**
   * Connects, registers and starts the loop. Resolves when the first claim is about to be made.
   * @throws when the database cannot be reached or has another schema; then nothing runs.
   */
  async start(): Promise<void> {
    if (this.#loop !== undefined) throw new Error('the reconciler has been started already');
    await this.#prepare();
    this.events.emit('started', {
      worker: this.name,
      stores: this.#settings.stores,
      roots: this.#settings.roots,
    });
    // The first claims need not wait for LISTEN.
    void this.#wakeUp?.start();
    this.#loop = this.#run();
  }

  async #prepare(): Promise<void> {
    await assertSchema(this.#db);
    if (this.#lease.worker === undefined) await this.#lease.acquire();
    await Promise.all(this.#all.map(store => store.checkRoots()));
  }

  /**
   * Claims once, carries out what came, and settles it. Returns how many rows that were. For tests, and for programs
   * that have a loop of their own.
   */
  async runOnce(): Promise<number> {
    if (this.#lease.worker === undefined) await this.#prepare();
    const claimed = await this.#claim();
    while (this.inHand > 0) {
      await this.#settler.flush();
      if (this.inHand > 0) await this.#signal.wait(10);
    }
    return claimed.rows;
  }

  async #run(): Promise<void> {
    let wait = TROUBLE_MIN;
    while (!this.#tenure.stopping) {
      try {
        await this.#turn();
        wait = TROUBLE_MIN;
      } catch (error) {
        if (this.#tenure.stopping) return;
        if (isLeaseLost(error)) {
          this.#lease.lost();
          continue;
        }
        this.#trouble = error instanceof Error ? error.message : String(error);
        // Claimed, perhaps, but the answer never came: those rows must not stay ours for ever.
        this.#housekeeping.doubt();
        this.events.emit('trouble', {
          doing: isSchemaError(error) ? 'claiming (is the schema of another version?)' : 'claiming',
          error,
        });
        await this.#signal.wait(wait * (0.5 + Math.random()));
        wait = Math.min(2 * wait, TROUBLE_MAX);
      }
    }
  }

  /** One turn of the loop: claims while there is something to claim, then sleeps. */
  async #turn(): Promise<void> {
    if (this.#lease.worker === undefined) {
      await this.#lease.acquire();
      this.#tenure = { ended: false, stopping: this.#tenure.stopping };
    }
    for (const store of this.#all) void store.checkRoots();
    if (this.#suspects) await this.#runSuspects();

    const { rows, full } = await this.#claim();
    // Here, not when the turn is over: it may sleep for as long as a safety poll, and all is well meanwhile.
    this.#trouble = undefined;
    this.#linger.claimed(rows);
    if (full) {
      void this.#wakeUp?.disarm();
      // With room for more, claim again at once; without, wait until some comes free.
      if (this.#rooms().size > 0) this.events.emit('wakeup', { cause: 'full' });
      else await this.#sleep(this.#poll());
      return;
    }
    const pause = this.#linger.pause;
    if (pause > 0) {
      // Rows come so fast that each would be notified: look again soon instead, and spare the writers NOTIFY.
      await this.#wakeUp?.disarm();
      await this.#sleep(pause);
      return;
    }
    const stores = [...this.#rooms().keys()];
    const armed = (await this.#wakeUp?.arm(stores)) ?? new Set();
    if (this.#wakeUp?.listening) {
      const again = await this.#claim();
      this.#linger.claimed(again.rows);
      if (again.rows > 0) return;
    }
    await this.#sleep(await this.#sleepTime(stores, armed));
  }

  async #claim(): Promise<{ rows: number; full: boolean }> {
    const rooms = this.#rooms();
    const worker = this.#lease.worker;
    if (rooms.size === 0 || worker === undefined) return { rows: 0, full: false };
    const tenure = this.#tenure;
    const rows = await this.#housekeeping.claiming(() => this.outbox.claim(worker, rooms));
    if (tenure.ended) return { rows: 0, full: false };
    let full = false;
    for (const [name, room] of rooms) {
      const mine = rows.filter(row => row.store === name);
      full ||= mine.length === room;
      if (mine.length > 0) this.#stores.get(name)?.accept(mine, tenure);
    }
    return { rows: rows.length, full };
  }

  #rooms(): Map<string, number> {
    const rooms = this.#all.map(store => [store.name, store.room] as const);
    return new Map(rooms.filter(([, room]) => room > 0));
  }

  /** Rows that were in hand three times when a worker vanished: each with nothing else in hand. */
  async #runSuspects(): Promise<void> {
    const tenure = this.#tenure;
    const over = () => tenure.stopping || tenure.ended;
    const idle = async () => {
      while (this.inHand > 0 && !over()) await this.#signal.wait(this.#settings.lease);
    };
    await idle();
    this.#suspects = false;
    for (let i = 0; i < SUSPECTS_AT_A_TIME && !over(); i++) {
      const worker = this.#lease.worker;
      const stores = [...this.#rooms().keys()];
      if (worker === undefined || stores.length === 0) return;
      const row = await this.#housekeeping.claiming(() => this.outbox.claimSuspect(worker, stores));
      if (row === undefined) return;
      this.#stores.get(row.store)?.accept([row], tenure);
      await idle();
    }
  }

  #poll(): number {
    const { poll } = this.#settings;
    const longest = this.#wakeUp?.listening ? poll : Math.min(poll, POLL_ONLY_MAX);
    // Daemons that were started together should not poll together.
    return longest * (0.9 + 0.1 * Math.random());
  }

  async #sleepTime(stores: readonly string[], armed: ReadonlySet<string>): Promise<number> {
    const times = [this.#poll()];
    if (stores.length > 0) {
      const due = await this.outbox.nextDue(stores);
      // A millisecond later than PostgreSQL's microseconds say, or it would wake up just too early.
      if (due !== undefined) times.push(Math.max(1, due + 1));
    }
    for (const store of this.#all) if (store.wait !== undefined) times.push(store.wait + 1);
    if (this.#wakeUp?.listening) {
      if (stores.every(store => armed.has(store))) this.#armWait = ARM_MIN;
      else {
        times.push(this.#armWait);
        this.#armWait = this.#armWait < ARM_FAST_MAX ? 2 * this.#armWait : ARM_SLOW;
      }
    }
    return Math.min(...times);
  }

  async #sleep(ms: number): Promise<void> {
    if (this.#tenure.stopping) return;
    const ring = await this.#signal.wait(ms);
    if (ring === 'ring') this.events.emit('wakeup', { cause: 'notify' });
    if (ring === undefined) {
      this.events.emit('wakeup', { cause: 'timer' });
      // A safety poll also proves that notifications would have come.
      if (ms >= this.#settings.poll * 0.9) void this.#wakeUp?.verify();
    }
  }

  #onBeat(suspects: boolean): void {
    if (suspects && !this.#suspects) {
      this.#suspects = true;
      this.#signal.ring('change');
    }
    const worker = this.#lease.worker;
    if (worker !== undefined) void this.#housekeeping.run(worker);
  }

  #onLeaseLost(): void {
    const inHand = this.inHand;
    this.#tenure.ended = true;
    this.#settler.forget();
    for (const store of this.#all) store.forget();
    this.events.emit('lease_lost', { worker: this.name, inHand });
    this.#signal.ring('change');
  }

  /** Whether the database answers and the loop claims; else why not. */
  async ready(): Promise<Readiness> {
    if (this.#stopping !== undefined) return { ok: false, reason: 'stopping' };
    if (this.#loop === undefined) return { ok: false, reason: 'not started yet' };
    try {
      await this.outbox.ping();
    } catch (error) {
      return { ok: false, reason: `the database does not answer: ${(error as Error).message}` };
    }
    if (this.#trouble !== undefined) return { ok: false, reason: `claiming fails: ${this.#trouble}` };
    if (this.#lease.worker === undefined)
      return { ok: false, reason: 'the lease was lost; registering anew' };
    return { ok: true };
  }

  /**
   * Stops in good order: claims nothing more, finishes what runs within the grace, hands the rest back, and closes all
   * connections. Calling it again returns the same promise.
   */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    this.events.emit('stopping', { inHand: this.inHand });
    const deadline = performance.now() + this.#settings.shutdownGrace;
    const left = () => Math.max(0, deadline - performance.now());
    const tenure = this.#tenure;
    tenure.stopping = true;
    this.#signal.ring('change');
    await within(left(), this.#loop ?? Promise.resolve());
    for (const store of this.#all) store.stop();
    while (this.inHand > 0 && left() > 0) await this.#signal.wait(Math.min(left(), 50));
    await within(left(), this.#settler.flush());
    this.#tenure.ended = true;
    this.#settler.forget();
    await this.#wakeUp?.close();
    let handedBack = 0;
    try {
      // The database answers within its own timeouts, or the lease ends and a reaper hands the rows back.
      handedBack = (await within(Math.max(1_000, left()), this.#lease.release())) ?? 0;
    } catch (error) {
      this.events.emit('trouble', { doing: 'handing rows back', error });
    }
    for (const handler of this.#settings.handlers) await handler.close?.();
    await within(1_000, this.#db.destroy());
    this.events.emit('stopped', { handedBack });
  }
}

/** What a promise resolves to, or undefined after so many milliseconds. */
async function within<T>(ms: number, work: Promise<T>): Promise<T | undefined> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<undefined>(resolve => {
    timer = setTimeout(resolve, ms, undefined);
  });
  try {
    return await Promise.race([work, timeout]);
  } finally {
    clearTimeout(timer);
  }
}

/** Makes a daemon to run inside a program of one's own, with handlers of one's own for further schemes. */
export function createReconciler(options: ReconcilerOptions): Reconciler {
  return new Reconciler(options);
}
