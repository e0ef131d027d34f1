/** The daemon's heart, put together: outbox, lease, stores, settler, wake-up and the loop; and its beginning and end. */
import { randomBytes } from 'node:crypto';
import { EventEmitter } from 'node:events';
import { hostname } from 'node:os';
import { type Database, openDatabase } from '../outbox/database.ts';
import { Holders } from '../outbox/holders.ts';
import { type Beat, Outbox } from '../outbox/outbox.ts';
import { serverOf } from '../outbox/rows.ts';
import { Spending } from '../outbox/spending.ts';
import { WakeUp } from '../outbox/wake.ts';
import { storeOf } from '../target.ts';
import { VERSION } from '../version.ts';
import type { ReconcilerEvents } from './events.ts';
import { askHolders, both, type Guard } from './guard.ts';
import { Housekeeping } from './housekeeping.ts';
import { Lease } from './lease.ts';
import { Loop, type Ring } from './loop.ts';
import { Neighbours } from './neighbours.ts';
import { type ReconcilerOptions, resolveSettings, type Settings } from './options.ts';
import { Rate } from './rate.ts';
import { SchemaWatch } from './schema-watch.ts';
import { Settler } from './settler.ts';
import { Signal } from './signal.ts';
import { Store } from './store.ts';

export type Readiness = { readonly ok: true } | { readonly ok: false; readonly reason: string };

export class Reconciler {
  readonly events = new EventEmitter<ReconcilerEvents>();
  readonly name: string;
  readonly outbox: Outbox;
  readonly #settings: Settings;
  readonly #db: Database;
  readonly #schema: SchemaWatch;
  readonly #guard: Guard;
  readonly #lease: Lease;
  readonly #settler: Settler;
  readonly #stores: ReadonlyMap<string, Store>;
  readonly #housekeeping: Housekeeping;
  readonly #wakeUp: WakeUp | undefined;
  readonly #signal = new Signal<Ring>();
  readonly #neighbours: Neighbours;
  readonly #loop: Loop;
  #starting: Promise<void> | undefined;
  #running: Promise<void> | undefined;
  #stopping: Promise<void> | undefined;
  /** Rows that went back to pending since it was told to stop. */
  #handedBack = 0;
  /** The one that answered last. */
  #server: number | undefined;

  constructor(options: ReconcilerOptions) {
    const settings = resolveSettings(options);
    this.#settings = settings;
    this.name = options.name ?? `${hostname()}/${process.pid}/${randomBytes(3).toString('hex')}`;
    const { databaseUrl, listenUrl, lease, poll, history, stores, roots } = settings;
    const applicationName = `afterdelete ${this.name}`;
    const onTrouble = (doing: string, error: unknown) => void this.events.emit('trouble', { doing, error });
    this.#db = openDatabase(databaseUrl, {
      applicationName,
      queryTimeout: settings.queryTimeout,
      onError: error => onTrouble('keeping a connection open', error),
    });
    this.#schema = new SchemaWatch(this.#db, reason => this.#onSchemaChanged(reason));
    this.events.on('trouble', ({ error }) => this.#schema.suspect(error));
    const outbox = new Outbox(this.#db);
    this.outbox = outbox;
    const holders = new Holders(this.#db);
    const held = askHolders(holders);
    this.#guard = options.guard === undefined ? held : both(held, options.guard);
    this.#neighbours = new Neighbours({
      outbox,
      mine: roots,
      grace: lease,
      onChange: () => this.#loop.fallBack(),
    });
    this.#lease = new Lease({
      outbox,
      worker: { name: this.name, version: VERSION, stores, roots, lease, history },
      onAcquired: id => this.#answeredBy(serverOf(id)),
      onBeat: beat => this.#onBeat(beat),
      onLost: () => this.#onLeaseLost(),
      onTrouble,
    });
    this.#settler = new Settler({
      outbox,
      worker: this.name,
      history: history > 0,
      onSettled: (settlement, held) => {
        if (held && settlement.kind === 'back' && this.#stopping !== undefined) this.#handedBack += 1;
        this.#stores.get(settlement.row.store)?.settled(settlement, held);
      },
      // No longer in hand, and still marked as running: the next round hands it back.
      onRefused: settlement => this.#stores.get(settlement.row.store)?.settled(settlement, false),
      onTrouble,
    });
    this.#stores = new Map(stores.map(store => [store, this.#createStore(store)]));
    this.#housekeeping = new Housekeeping({
      outbox,
      schema: this.#schema,
      holders,
      stores: this.#all,
      neighbours: this.#neighbours,
      onTrouble,
      onReaped: reaped => {
        this.#loop.fallBack();
        this.events.emit('reaped', reaped);
      },
    });
    this.#wakeUp = listenUrl === 'off' ? undefined : this.#createWakeUp(listenUrl, applicationName);
    this.#loop = new Loop({
      outbox,
      lease: this.#lease,
      stores: this.#all,
      housekeeping: this.#housekeeping,
      neighbours: this.#neighbours,
      wakeUp: this.#wakeUp,
      signal: this.#signal,
      events: this.events,
      poll,
    });
  }

  #createStore(store: string): Store {
    const { roots, handlers, concurrency, storeConcurrency, prefetch, storageTimeout, margin } =
      this.#settings;
    const { maxAttempts, retryBase, retryCap, slice, fuse } = this.#settings;
    const perSecond = this.#settings.storeRate.get(store);
    const handler = handlers.find(h => store.startsWith(`${h.scheme}://`));
    if (handler === undefined) throw new TypeError(`no handler for ${store}`);
    return new Store({
      store,
      roots: roots.filter(root => storeOf(root) === store),
      handler,
      guard: this.#guard,
      outbox: this.outbox,
      neighbours: this.#neighbours,
      lease: this.#lease,
      settler: this.#settler,
      events: this.events,
      worker: this.name,
      concurrency: storeConcurrency.get(store) ?? concurrency,
      rate: perSecond === undefined ? undefined : new Rate(perSecond),
      prefetch,
      policy: { maxAttempts, backoff: { base: retryBase, cap: retryCap }, slice },
      fuse: fuse === 'off' ? undefined : { limit: fuse, spending: new Spending(this.#db) },
      storageTimeout,
      margin,
      onChange: () => this.#signal.ring('change'),
      onRoom: () => this.#loop.roomCame(),
      onPause: () => void this.#lease.beat(),
    });
  }

  #createWakeUp(url: string, applicationName: string): WakeUp {
    return new WakeUp({
      url,
      applicationName,
      notify: payload => this.outbox.notify(payload),
      onRing: payload => {
        // A store was paused or resumed: the heartbeat's round reads which.
        if (payload === 'pauses') void this.#lease.beat();
        this.#loop.notified();
      },
      onListening: (listening, reason) => {
        if (listening) this.events.emit('listen_restored');
        else this.events.emit('listen_lost', { reason });
        // What was notified in between is lost by nature.
        this.#signal.ring('change');
      },
    });
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
   * @throws when the database cannot be reached or has another schema; then nothing runs, and it may be called again.
   */
  async start(): Promise<void> {
    if (this.#running !== undefined || this.#starting !== undefined)
      throw new Error('the reconciler has been started already');
    if (this.#stopping !== undefined) throw new Error('the reconciler has been stopped: make a new one');
    this.#starting = this.#prepare();
    try {
      await this.#starting;
    } finally {
      this.#starting = undefined;
    }
    if (this.#stopping !== undefined) return;
    this.events.emit('started', {
      worker: this.name,
      stores: this.#settings.stores,
      roots: this.#settings.roots,
    });
    // The first claims need not wait for LISTEN.
    void this.#wakeUp?.start();
    this.#running = this.#loop.run();
  }

  async #prepare(): Promise<void> {
    await this.#schema.assert();
    if (this.#lease.worker === undefined) await this.#loop.register();
    await Promise.all([this.#neighbours.refresh(), ...this.#all.map(store => store.checkRoots())]);
  }

  /**
   * Claims once, carries out what came, and settles it. Returns how many rows that were. For tests, and for programs
   * that have a loop of their own.
   */
  async runOnce(): Promise<number> {
    if (this.#lease.worker === undefined) await this.#prepare();
    else await Promise.all(this.#all.map(store => store.checkRoots()));
    const { rows } = await this.#loop.claim();
    while (this.inHand > 0) {
      await this.#settler.flush();
      if (this.inHand > 0) await this.#signal.wait(10);
    }
    return rows;
  }

  #onBeat(beat: Beat): void {
    if (beat.suspects) this.#loop.suspect();
    this.#loop.heard(beat);
    this.#answeredBy(beat.server);
    const worker = this.#lease.worker;
    if (worker !== undefined) void this.#housekeeping.run(worker);
  }

  /** Another server than before: perhaps it does not know what was claimed, nor what was put on record. */
  #answeredBy(server: number): void {
    const before = this.#server;
    this.#server = server;
    if (before === undefined || before === server) return;
    for (const store of this.#all) store.onOtherServer();
    this.#housekeeping.recordAnew();
    void this.#wakeUp?.verify();
  }

  #onLeaseLost(): void {
    const inHand = this.inHand;
    this.#loop.tenure.ended = true;
    this.#settler.forget();
    for (const store of this.#all) store.forget();
    this.events.emit('lease_lost', { worker: this.name, inHand });
    this.#signal.ring('change');
  }

  /** Its statements may mean something else now: it ends in good order, for those of the other version to go on. */
  #onSchemaChanged(reason: string): void {
    if (this.#stopping !== undefined) return;
    this.events.emit('schema_changed', { reason });
    void this.stop();
  }

  /** Whether the database answers and the loop claims; else why not. */
  async ready(): Promise<Readiness> {
    if (this.#stopping !== undefined) return { ok: false, reason: 'stopping' };
    if (this.#running === undefined) return { ok: false, reason: 'not started yet' };
    try {
      await this.outbox.ping();
    } catch (error) {
      return { ok: false, reason: `the database does not answer: ${(error as Error).message}` };
    }
    if (this.#loop.trouble !== undefined)
      return { ok: false, reason: `claiming fails: ${this.#loop.trouble}` };
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
    // A worker that is just registering would leave its row behind.
    await this.#starting?.catch(() => {});
    const deadline = performance.now() + this.#settings.shutdownGrace;
    const left = () => Math.max(0, deadline - performance.now());
    this.#loop.tenure.stopping = true;
    this.#signal.ring('change');
    await within(left(), this.#running ?? Promise.resolve());
    for (const store of this.#all) store.handBackQueued();
    while (this.inHand > 0 && left() > 0) await this.#signal.wait(Math.min(left(), 50));
    await within(left(), this.#settler.flush());
    this.#loop.tenure.ended = true;
    this.#settler.forget();
    this.#housekeeping.end();
    await this.#wakeUp?.close();
    try {
      // The database answers within its own timeouts, or the lease ends and a reaper hands the rows back.
      this.#handedBack += (await within(Math.max(1_000, left()), this.#lease.release())) ?? 0;
    } catch (error) {
      this.events.emit('trouble', { doing: 'handing rows back', error });
    }
    await within(1_000, Promise.all([this.#closeHandlers(), this.#db.destroy()]));
    this.events.emit('stopped', { handedBack: this.#handedBack });
  }

  /** Never rejects. */
  async #closeHandlers(): Promise<void> {
    for (const handler of this.#settings.handlers) {
      try {
        await handler.close?.();
      } catch (error) {
        this.events.emit('trouble', { doing: `closing the handler of ${handler.scheme}:`, error });
      }
    }
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
