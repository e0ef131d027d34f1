/** Plays runs of the protocol over real sessions, and asks the invariants of docs/protocol.md after every step. */
import type { Database } from '../../../src/outbox/database.ts';
import { openDatabase } from '../../../src/outbox/database.ts';
import { isLeaseLost, isWrongState } from '../../../src/outbox/errors.ts';
import { type ClaimedRow, Outbox, type Settlement } from '../../../src/outbox/outbox.ts';
import type { Breakage } from './breakages.ts';
import {
  checkClaimed,
  checkMoves,
  checkRunning,
  checkSettled,
  checkWorkers,
  demand,
  describe,
  dueKey,
} from './checks.ts';
import { type Deed, type DeedOf, held, type NewDeed, told } from './deeds.ts';
import { Lane } from './lane.ts';
import { Observer, type Point, type Row, type Snapshot } from './observer.ts';
import { type End, STORES, type Step, WORKERS, WRITERS } from './steps.ts';
import { Worker } from './worker.ts';

/** How often something happened that a run should be able to reach. */
export type Coverage = Map<string, number>;

/** A timer that ends so soon wakes the sleeper about as soon as a ring would, in ms. */
const SOON = 50;

export async function openProtocol(url: string, breakage?: Breakage): Promise<Protocol> {
  const protocol = new Protocol(url, breakage);
  await protocol.open(breakage?.sql);
  return protocol;
}

export class Protocol {
  readonly coverage: Coverage = new Map();
  readonly #observer: Observer;
  readonly #database: Database;
  readonly #admin: Outbox;
  readonly #lanes: Lane[] = [];
  readonly #writers: Lane[];
  readonly #reaper: Lane;
  readonly #operator: Lane;
  readonly #workers: Worker[];
  readonly #broken: Breakage['actors'];
  #now: Snapshot = { rows: new Map(), twice: [], workers: new Map(), paused: new Set() };
  #clock = 0;
  #fences = 0;
  #named = 0;
  #played = 0;
  /** Workers or pauses have changed since the last look. */
  #stale = false;
  /** Rows that came back, and nobody is told of: their worker knows, or the transaction that had them was rolled back. */
  #unrung = new Set<string>();

  constructor(url: string, breakage: Breakage | undefined) {
    this.#broken = breakage?.actors;
    this.#observer = new Observer(url);
    this.#database = openDatabase(url, { max: 1 });
    this.#admin = new Outbox(this.#database);
    const lane = (name: string) => {
      const made = new Lane(name, this.#lanes.length, url, this.#observer);
      this.#lanes.push(made);
      return made;
    };
    this.#writers = Array.from({ length: WRITERS }, (_, i) => lane(`writer ${i}`));
    this.#workers = Array.from(
      { length: WORKERS },
      (_, i) =>
        new Worker({
          name: `worker ${i}`,
          url,
          outbox: this.#admin,
          lanes: {
            claim: lane(`claim ${i}`),
            spare: lane(`spare ${i}`),
            settle: lane(`settle ${i}`),
            beat: lane(`beat ${i}`),
          },
          broken: breakage?.actors,
          onRegistered: () => {
            this.#stale = true;
          },
          saw: what => this.#saw(what),
        }),
    );
    this.#reaper = lane('reaper');
    this.#operator = lane('operator');
  }

  async open(sql: string | undefined): Promise<void> {
    await this.#observer.open();
    if (sql !== undefined) await this.#observer.sql(sql);
    await Promise.all(this.#lanes.map(lane => lane.open()));
    for (const worker of this.#workers) {
      await worker.wakeUp.start();
      if (!worker.wakeUp.listening) throw new Error(`${worker.name} does not hear its nonce`);
    }
  }

  async close(): Promise<void> {
    await Promise.all(this.#workers.map(worker => worker.wakeUp.close()));
    await Promise.all(this.#lanes.map(lane => lane.close()));
    await this.#database.destroy();
    await this.#observer.close();
  }

  #saw(what: string): void {
    this.coverage.set(what, (this.coverage.get(what) ?? 0) + 1);
  }

  /**
   * One run: the steps, then all that is open ends, and all that is due is done.
   * @throws Violation when an invariant does not hold.
   */
  async run(steps: readonly Step[]): Promise<void> {
    try {
      this.#played += 1;
      await this.#observer.empty();
      for (const worker of this.#workers) await worker.reset(() => this.#clock);
      this.#unrung = new Set();
      this.#now = await this.#observer.snapshot();
      for (const step of steps) {
        await this.#do(step);
        if (this.#stale || this.#fallingDue()) await this.#look(undefined);
        await this.#settled();
      }
      await this.#finish();
    } finally {
      await this.#abandon();
    }
  }

  /** Somebody sleeps, and a row may have fallen due since. */
  #fallingDue(): boolean {
    return (
      this.#workers.some(worker => worker.isAsleep) &&
      [...this.#now.rows.values()].some(row => row.state === 'pending' && !row.is_due && isSoon(row))
    );
  }

  /** After a run that failed: nothing of it is left open. */
  async #abandon(): Promise<void> {
    while (this.#lanes.some(lane => lane.active)) {
      for (const lane of this.#lanes) await lane.release();
      for (const lane of this.#lanes) {
        await lane.rest();
        if (lane.active && !lane.busy) await lane.end('rollback');
      }
    }
  }

  async #do(step: Step): Promise<void> {
    switch (step.do) {
      case 'begin':
      case 'write':
        return await this.#write(step);
      case 'end': {
        const active = this.#lanes.filter(lane => lane.active);
        const lane = active[step.lane % active.length];
        if (lane !== undefined) await this.#goOn(lane, step.how);
        return;
      }
      case 'reap':
        if (step.expired !== undefined) await this.#expire(this.#workers[step.expired] as Worker);
        await this.#reap(step.pause === 'no' ? undefined : step.pause);
        return await this.#unlessHeld(this.#reaper, step);
      case 'operate':
        await this.#operate(step);
        return await this.#unlessHeld(this.#operator, step);
      case 'tick':
        this.#clock += this.#broken === 'never falls back' ? Math.min(step.ms, 250) : step.ms;
        return;
      case 'wait':
        return await new Promise(resolve => setTimeout(resolve, step.ms));
      case 'pause a store':
      case 'resume a store':
        // What a claim is told of pauses while it waits is nobody's to say.
        if (this.#lanes.some(lane => lane.busy && lane.deed?.kind === 'claim')) return;
        this.#stale = true;
        return await this.#observer.pause(step.store, step.do === 'pause a store');
      default: {
        const worker = this.#workers[step.worker] as Worker;
        await this.#work(worker, step);
        if (step.do === 'settle' || step.do === 'hand back strays')
          await this.#unlessHeld(worker.lanes.settle, step);
        else if ('hold' in step && step.do !== 'go on') await this.#unlessHeld(worker.lanes.beat, step);
      }
    }
  }

  /** Commits at once, unless the step says otherwise. */
  async #unlessHeld(lane: Lane, { hold }: { hold: boolean }): Promise<void> {
    if (!hold && lane.active && !lane.busy) await this.#goOn(lane, 'commit');
  }

  async #expire(worker: Worker): Promise<void> {
    await this.#observer.expire(worker.id);
    await this.#look(undefined);
  }

  async #work(worker: Worker, step: Extract<Step, { worker: number }>): Promise<void> {
    switch (step.do) {
      case 'go on':
        return await this.#loop(worker, step);
      case 'settle':
        return await this.#settle(worker, step);
      case 'claim a suspect':
        return await this.#claimSuspect(worker);
      case 'progress': {
        const row = worker.ever[step.row % worker.ever.length];
        if (row === undefined) return;
        const objects = (row.objects ?? 0) + step.objects;
        return await this.#start(
          worker.lanes.beat,
          { kind: 'progress', row, objects, names: [row.id] },
          lane => lane.outbox.progress([{ row, objects, bytes: null }]),
        );
      }
      case 'heartbeat':
        return await this.#start(
          worker.lanes.beat,
          { kind: 'heartbeat', worker: worker.id, alive: false, names: [] },
          async (lane, deed) => {
            (deed as DeedOf<'heartbeat'>).alive = (await lane.outbox.heartbeat(worker.id, 3_600_000)).alive;
          },
        );
      case 'hand back strays': {
        // As in src/reconciler/housekeeping.ts: never beside a claim.
        if (worker.lanes.claim.active) return;
        const inHand = [...worker.hand];
        return await this.#start(
          worker.lanes.settle,
          { kind: 'hand back strays', worker: worker.id, inHand, names: this.#runningOf(worker.id) },
          async lane => void (await lane.outbox.handBackStrays(worker.id, inHand)),
        );
      }
      case 'deregister':
        return await this.#start(
          worker.lanes.beat,
          { kind: 'deregister', worker: worker.id, handedBack: 0, names: this.#runningOf(worker.id) },
          async (lane, deed) => {
            (deed as DeedOf<'deregister'>).handedBack = await lane.outbox.deregister(worker.id);
          },
        );
      case 'expire':
        return await this.#expire(worker);
      case 'abandon':
        if (worker.abandon()) this.#saw('abandoned');
        return;
      case 'mark':
        if (!worker.lanes.claim.active) await worker.setMark();
        return;
      case 'poll':
        if (worker.phase === 'asleep') worker.wake();
        return;
      case 'disarm':
        await worker.wakeUp.disarm();
        worker.armed = new Set();
        if (worker.phase !== 'claim' && !worker.lanes.claim.active) worker.phase = 'claim';
        return;
    }
  }

  async #write(step: Extract<Step, { do: 'begin' | 'write' }>): Promise<void> {
    const lane = this.#writers[step.writer] as Lane;
    if (lane.busy) return;
    if (lane.error !== undefined) return;
    if (!lane.active) {
      const deed = this.#deed({ kind: 'write', written: [], names: [] });
      await lane.begin(deed, step.isolation);
      await lane.send(undefined, async () => void (await lane.sql('SELECT now()')));
      lane.reported = true;
    }
    if (step.do === 'begin') return;
    const deed = lane.deed as DeedOf<'write'>;
    const store = STORES[step.store] as string;
    this.#saw(step.undone ? 'rollback to a savepoint' : `written: ${step.how}`);
    await lane.send(step.pause ? 'before a row of pending' : undefined, async () => {
      if (step.undone) await lane.sql('SAVEPOINT s');
      const target = `${store}/${++this.#named}`;
      const interval = `${step.delay} milliseconds`;
      const rows =
        step.how === 'enqueue'
          ? await lane.sql<{ id: string }>('SELECT afterdelete.enqueue($1, $2::interval)::text AS id', [
              target,
              interval,
            ])
          : await lane.sql<{ id: string }>(
              step.how === 'past'
                ? `INSERT INTO afterdelete.pending_file_cleanup (target, run_at) VALUES ($1, now() - interval '1 hour' + $2::interval / 1000) RETURNING id::text`
                : step.how === 'insert'
                  ? `INSERT INTO afterdelete.pending_file_cleanup (target, run_at) VALUES ($1, now() + $2::interval) RETURNING id::text`
                  : `INSERT INTO afterdelete.pending_file_cleanup (target, run_at) SELECT $1 || '/' || i, now() + $2::interval FROM generate_series(1, 3) i RETURNING id::text`,
              [target, interval],
            );
      if (step.undone) await lane.sql('ROLLBACK TO SAVEPOINT s');
      else deed.written.push(...rows.map(row => row.id));
    });
    if (lane.busy) this.#saw('paused: write');
    else this.#ended(lane);
    await this.#unlessHeld(lane, step);
  }

  /** What a daemon's loop does next: see `src/reconciler/loop.ts`. */
  async #loop(worker: Worker, step: Extract<Step, { do: 'go on' }>): Promise<void> {
    const lane = worker.lanes.claim;
    if (lane.active) return await this.#goOn(lane, 'commit');
    switch (worker.phase) {
      case 'arm':
        return await worker.arm();
      case 'ask':
        await worker.ask();
        if (worker.isAsleep) this.#saw('asleep');
        return;
      case 'asleep':
        await this.#fence();
        if (worker.rung) this.#saw('woken by a ring');
        else if (worker.wakeAt <= performance.now()) this.#saw('woken by the time');
        else return;
        return worker.wake();
      default: {
        worker.start = worker.floors.begin();
        worker.mark = step.mark;
        const rooms = new Map(STORES.map(store => [store, step.room]));
        const floors = STORES.map(store => [store, worker.floors.from(store, worker.start)] as const);
        const from = new Map(
          floors.filter((entry): entry is [(typeof STORES)[number], number] => entry[1] !== undefined),
        );
        this.#saw(worker.start.sweep ? 'claim from the floor' : 'claim from the cursor');
        await this.#start(
          lane,
          { kind: 'claim', worker: worker.id, rooms, from, rows: [], paused: new Set(), names: [] },
          async (_, deed) => {
            const found = await lane.outbox.claim(worker.id, rooms, [], from);
            Object.assign(deed, found);
          },
          step.pause ? 'before claiming' : undefined,
        );
        await this.#unlessHeld(lane, step);
      }
    }
  }

  async #claimSuspect(worker: Worker): Promise<void> {
    await this.#start(
      worker.lanes.claim,
      { kind: 'claim a suspect', worker: worker.id, rows: [], names: [] },
      async (lane, deed) => {
        const row = await lane.outbox.claimSuspect(worker.id, STORES);
        (deed as DeedOf<'claim a suspect'>).rows = row === undefined ? [] : [row];
      },
    );
  }

  async #settle(worker: Worker, step: Extract<Step, { do: 'settle' }>): Promise<void> {
    const pool = step.late ? worker.ever : worker.hand;
    const rows = step.rows.map(n => pool[n % pool.length]).filter(row => row !== undefined);
    if (rows.length === 0) return;
    const settlements = rows.map(row => settlementOf(row, step));
    const sent =
      this.#broken === 'settles name whatever claim stands'
        ? settlements.map(s => ({
            ...s,
            row: { ...s.row, claim: this.#now.rows.get(s.row.id)?.claim ?? s.row.claim },
          }))
        : settlements;
    await this.#start(
      worker.lanes.settle,
      { kind: 'settle', settlements, settled: [], names: rows.map(row => row.id) },
      async (lane, deed) => {
        (deed as DeedOf<'settle'>).settled = await settled(lane.outbox, worker.name, sent);
      },
      step.pause === 'no' ? undefined : step.pause,
    );
  }

  async #reap(pause: Point | undefined): Promise<void> {
    await this.#start(
      this.#reaper,
      { kind: 'reap', workers: 0, moved: 0, died: 0, names: this.#ownerless() },
      async (lane, deed) => void Object.assign(deed, await lane.outbox.reap()),
      pause,
    );
  }

  async #operate(step: Extract<Step, { do: 'operate' }>): Promise<void> {
    const state = step.how === 'retry' || step.how === 'discard' ? 'dead' : 'pending';
    const rows = [...this.#now.rows.values()];
    const fitting = rows.filter(row => row.state === state);
    const ids = (fitting.length > 0 ? fitting : rows).map(row => row.id);
    const id = ids[step.row % ids.length];
    if (id === undefined) return;
    await this.#start(
      this.#operator,
      { kind: step.how, id, ended: false, names: [id] },
      async (lane, deed) => {
        const [row] = await lane.sql<{ ended: boolean | '' }>(`SELECT afterdelete.${step.how}($1) AS ended`, [
          id,
        ]);
        (deed as DeedOf<'cancel'>).ended = row?.ended !== false;
      },
      step.pause ? 'before claiming' : undefined,
    );
  }

  #runningOf(worker: string): string[] {
    return [...this.#now.rows.values()]
      .filter(row => row.state === 'running' && row.worker === worker)
      .map(row => row.id);
  }

  #ownerless(): string[] {
    const { rows, workers } = this.#now;
    return [...rows.values()]
      .filter(row => row.state === 'running' && workers.get(row.worker as string) !== true)
      .map(row => row.id);
  }

  #deed(deed: NewDeed): Deed {
    return { ...deed, overlap: new Map(), before: this.#now } as Deed;
  }

  /** Begins a transaction on a lane that has none, with one statement of a deed. */
  async #start(
    lane: Lane,
    what: NewDeed,
    statement: (lane: Lane, deed: Deed) => Promise<void>,
    pause?: Point,
  ): Promise<void> {
    if (lane.active) return;
    const deed = this.#deed(what);
    for (const other of this.#others(lane)) {
      overlap(deed, other.deed as Deed, other.busy);
      if (other.busy) overlap(other.deed as Deed, deed, true);
    }
    await lane.begin(deed);
    await lane.send(pause, () => statement(lane, deed));
    if (lane.busy) this.#saw(lane.held ? `paused: ${deed.kind}` : `waited: ${deed.kind}`);
    else this.#ended(lane);
  }

  #others(lane: Lane): Lane[] {
    return this.#lanes.filter(other => other !== lane && other.active);
  }

  /** The statement of a lane has ended; its transaction has not. */
  #ended(lane: Lane): void {
    const deed = lane.deed as Deed;
    lane.reported = true;
    if (lane.error !== undefined) {
      const expected =
        (isLeaseLost(lane.error) && (deed.kind === 'claim' || deed.kind === 'claim a suspect')) ||
        (isWrongState(lane.error) && deed.kind === 'confirm');
      if (!expected) throw new Error(`${describe(deed)} failed: ${lane.error}`, { cause: lane.error });
      this.#saw(`refused: ${deed.kind}`);
      return;
    }
    if (deed.kind === 'reap') deed.names = this.#ownerless();
    if (deed.kind === 'deregister') deed.names = this.#runningOf(deed.worker);
    for (const other of this.#others(lane)) if (other.busy) overlap(other.deed as Deed, deed, false);
    if (deed.kind === 'claim') checkClaimed(deed, this.#now);
    if (deed.kind === 'settle') checkSettled(deed);
  }

  /** A transaction goes on: from its pause, or to its end. */
  async #goOn(lane: Lane, how: End): Promise<void> {
    if (lane.busy) {
      await lane.release();
      await lane.rest();
      if (!lane.busy) this.#ended(lane);
      return;
    }
    if (!lane.reported) this.#ended(lane);
    const deed = lane.deed as Deed;
    const { error } = lane;
    const committed = error === undefined && how !== 'rollback';
    await lane.end(committed ? 'commit' : 'rollback');
    this.#saw(`${error === undefined ? how : 'failed'}: ${deed.kind}`);
    await this.#look(committed ? deed : undefined);
    if (!committed) this.#wakesNobody(held(deed));
    const worker = this.#workers.find(w => Object.values(w.lanes).includes(lane));
    if (worker !== undefined) await this.#told(worker, deed, how, committed, error);
    if (deed.kind === 'settle' && committed && deed.settlements.some(s => s.kind === 'back' && !notifies(s)))
      this.#wakesNobody(deed.settled);
    for (const other of this.#others(lane)) {
      if (other.busy) await other.rest();
      if (!other.busy && !other.reported) this.#ended(other);
    }
  }

  /** Nobody need hear of these rows as they are due now. */
  #wakesNobody(ids: readonly string[]): void {
    for (const id of ids) {
      const row = this.#now.rows.get(id);
      if (row?.state === 'pending') this.#unrung.add(dueKey(row));
    }
  }

  /** A worker hears how its transaction ended. */
  async #told(worker: Worker, deed: Deed, how: End, committed: boolean, error: unknown): Promise<void> {
    switch (deed.kind) {
      case 'claim':
      case 'claim a suspect':
        if (worker.abandoned === deed) return;
        if (deed.worker !== worker.id) return void worker.ever.push(...(committed ? deed.rows : []));
        if (isLeaseLost(error)) return await worker.register();
        if (how !== 'commit') return worker.failed();
        if (deed.kind === 'claim') return await worker.claimed(deed, this.#now);
        worker.hand.push(...deed.rows);
        worker.ever.push(...deed.rows);
        worker.wake();
        return;
      case 'settle': {
        if (how !== 'commit') return;
        if (deed.settled.length < new Set(deed.names).size) this.#saw('a settle of what is not held');
        worker.hand = worker.hand.filter(row => !deed.settlements.some(s => s.row === row));
        // Room came free, and what went back may be due soon.
        if (worker.phase === 'asleep') worker.wake();
        return;
      }
      case 'heartbeat':
        if (how === 'commit' && !deed.alive && deed.worker === worker.id) await worker.register();
        return;
      case 'deregister':
        if (committed && deed.worker === worker.id) await worker.register();
        return;
    }
  }

  /** All that was notified until now has been heard. */
  async #fence(): Promise<void> {
    const n = ++this.#fences;
    await this.#admin.notify(`fence ${n}`);
    await Promise.all(this.#workers.map(worker => worker.fence(n)));
  }

  /** Looks at what is committed; `deed` is what has just been, if anything. */
  async #look(deed: Deed | undefined): Promise<void> {
    const before = this.#now;
    const after = await this.#observer.snapshot();
    this.#now = after;
    this.#stale = false;
    checkMoves(before, after, deed);
    checkWorkers(before, after, deed);
    checkRunning(before, after, deed);
  }

  /** What holds between two steps: nothing lies below a floor, and nobody sleeps beside what is due. */
  async #settled(): Promise<void> {
    const pending = [...this.#now.rows.values()].filter(
      row => row.state === 'pending' && (row.lost ?? 0) < 3,
    );
    for (const worker of this.#workers) {
      const floors = new Map(STORES.map(store => [store as string, worker.floorOf(store)]));
      if ([...floors.values()].every(floor => floor === undefined)) worker.excused.clear();
      for (const row of pending) {
        const floor = floors.get(row.store);
        if (floor === undefined || (row.due as number) >= floor) continue;
        if (worker.excused.has(dueKey(row))) this.#saw('a row that was locked lies below the floor');
        else
          demand(
            false,
            'nothing below the floor',
            () => `row ${row.id}, due ${row.due}, below the floor ${floor} of ${worker.name}`,
          );
      }
    }
    const locked = new Set(this.#lanes.filter(lane => lane.active).flatMap(lane => held(lane.deed as Deed)));
    const waiting = pending.filter(
      row =>
        row.is_due &&
        !this.#now.paused.has(row.store) &&
        !locked.has(row.id) &&
        !this.#unrung.has(dueKey(row)),
    );
    for (const worker of this.#workers) {
      const unseen = () =>
        worker.phase === 'asleep' && !worker.rung && worker.wakeAt > performance.now() + SOON
          ? waiting.filter(
              row =>
                worker.armed.has(row.store) &&
                !worker.passedBy.has(dueKey(row)) &&
                !worker.excused.has(dueKey(row)),
            )
          : [];
      if (unseen().length === 0) continue;
      await this.#fence();
      const left = unseen();
      demand(
        left.length === 0,
        'no wake-up is lost',
        () => `${worker.name} sleeps beside rows ${left.map(dueKey)}`,
      );
    }
  }

  /** All ends, and all that is due is found and done, whatever was locked before: after the fall-back nothing is left behind. */
  async #finish(): Promise<void> {
    while (this.#lanes.some(lane => lane.active)) {
      for (const lane of this.#lanes.filter(l => l.active)) await this.#goOn(lane, 'commit');
      await this.#settled();
    }
    for (const [i, store] of STORES.entries())
      if (this.#now.paused.has(store)) await this.#observer.pause(i, false);
    if (this.#broken !== 'never falls back') this.#clock += 300_000;
    for (const worker of this.#workers) {
      worker.wake();
      // Its next claim begins from the start: from now on no lock is an excuse.
      worker.floors.begin();
      worker.excused.clear();
    }
    await this.#settled();
    for (let round = 0; ; round++) {
      await this.#look(undefined);
      const left = [...this.#now.rows.values()].filter(
        row => row.state === 'running' || (row.state === 'pending' && isSoon(row)),
      );
      if (left.length === 0) break;
      demand(
        round < 40,
        'all that is due is done',
        () => `still there: ${left.map(row => `${row.id} ${told(row)}`)}`,
      );
      await this.#drain();
      if (left.some(row => row.state === 'pending')) await new Promise(resolve => setTimeout(resolve, 2));
    }
    await this.#lateSettles();
  }

  async #drain(): Promise<void> {
    const go = { do: 'go on', worker: 0, room: 100, pause: false, hold: true, mark: true } as const;
    // The lease of a worker that nobody is any more ends some time.
    for (const [id, live] of this.#now.workers)
      if (live && !this.#workers.some(worker => worker.id === id)) await this.#observer.expire(id);
    await this.#look(undefined);
    const has = (test: (row: Row) => boolean) => [...this.#now.rows.values()].some(test);
    if (this.#ownerless().length > 0) {
      await this.#reap(undefined);
      await this.#goOn(this.#reaper, 'commit');
    }
    for (const worker of this.#workers) {
      const { claim, settle } = worker.lanes;
      worker.wake();
      await this.#loop(worker, go);
      await this.#goOn(claim, 'commit');
      if (has(row => row.state === 'pending' && (row.lost ?? 0) >= 3)) {
        await this.#claimSuspect(worker);
        await this.#goOn(claim, 'commit');
      }
      if (this.#runningOf(worker.id).length > worker.hand.length) {
        await this.#work(worker, { do: 'hand back strays', worker: 0, hold: true });
        await this.#goOn(settle, 'commit');
      }
      while (worker.hand.length > 0) {
        await this.#settle(worker, { ...everything(worker.hand), as: 'done', late: false });
        await this.#goOn(settle, 'commit');
      }
      await this.#settled();
    }
  }

  /** Everything that anybody ever had in hand is settled once more: nothing changes. */
  async #lateSettles(): Promise<void> {
    for (const [i, worker] of this.#workers.entries()) {
      if (worker.ever.length === 0) continue;
      const as = (['done', 'retry', 'dead'] as const)[(this.#played + i) % 3] as 'done';
      await this.#settle(worker, { ...everything(worker.ever), as, late: true });
      await this.#goOn(worker.lanes.settle, 'commit');
    }
  }
}

const everything = (rows: readonly ClaimedRow[]) =>
  ({
    do: 'settle',
    worker: 0,
    rows: rows.map((_, i) => i),
    objects: 0,
    delay: 0,
    pause: 'no',
    hold: true,
  }) as const;

/** Due within a minute: what is due later is due in an hour, and none of this run's business. */
const isSoon = (row: Row) => (row.due as number) < Date.now() * 1000 + 60e6;

const notifies = (s: Settlement) =>
  s.kind === 'back' && (s.reason === 'handed_back' || s.reason === 'elsewhere');

/** What another deed has in hand, or may have while its statement is under way, was not to be had meanwhile. */
function overlap(deed: Deed, other: Deed, busy: boolean): void {
  // A row that was not there yet excuses nothing: floors wait for it.
  if (other.kind === 'write') return;
  for (const id of busy ? other.names : held(other)) {
    const kinds = deed.overlap.get(id) ?? new Set();
    deed.overlap.set(id, kinds.add(other.kind));
  }
}

function settlementOf(row: ClaimedRow, step: Extract<Step, { do: 'settle' }>): Settlement {
  const common = { row, objects: (row.objects ?? 0) + step.objects, bytes: null };
  if (step.as === 'done') return { ...common, kind: 'done', outcome: 'deleted', note: null };
  if (step.as === 'dead') return { ...common, kind: 'dead', error: 'broken' };
  return {
    ...common,
    kind: 'back',
    reason: step.as,
    delay: step.delay,
    error: step.as === 'handed_back' ? null : 'not now',
  };
}

async function settled(
  outbox: Outbox,
  worker: string,
  settlements: readonly Settlement[],
): Promise<string[]> {
  const of = <K extends Settlement['kind']>(kind: K) =>
    settlements.filter((s): s is Extract<Settlement, { kind: K }> => s.kind === kind);
  return [
    ...(of('done').length > 0 ? await outbox.settleDone(worker, true, of('done')) : []),
    ...(of('back').length > 0 ? await outbox.settleBack(of('back')) : []),
    ...(of('dead').length > 0 ? await outbox.settleDead(worker, of('dead')) : []),
  ];
}
