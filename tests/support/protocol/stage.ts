/** Who takes part in a run, their sessions, and what is known of what is committed; transactions begin, pause and end here. */
import type { Database } from '../../../src/outbox/database.ts';
import { openDatabase } from '../../../src/outbox/database.ts';
import { isLeaseLost, isWrongState } from '../../../src/outbox/errors.ts';
import { Outbox } from '../../../src/outbox/outbox.ts';
import type { Settlement } from '../../../src/outbox/rows.ts';
import type { Breakage } from './breakages.ts';
import {
  checkClaimed,
  checkMoves,
  checkRunning,
  checkSettled,
  checkWorkers,
  describe,
  dueKey,
  isSoon,
} from './checks.ts';
import { type Deed, held, type NewDeed } from './deeds.ts';
import { Lane } from './lane.ts';
import { Observer, type Point, type Snapshot } from './observer.ts';
import { type End, WORKERS, WRITERS } from './steps.ts';
import { Worker } from './worker.ts';

/** How often something happened that a run should be able to reach. */
export type Coverage = Map<string, number>;

export class Stage {
  readonly coverage: Coverage = new Map();
  readonly observer: Observer;
  readonly #database: Database;
  readonly #admin: Outbox;
  readonly lanes: Lane[] = [];
  readonly writers: Lane[];
  readonly reaper: Lane;
  readonly operator: Lane;
  readonly workers: Worker[];
  readonly broken: Breakage['actors'];
  now: Snapshot = { rows: new Map(), twice: [], workers: new Map(), paused: new Set() };
  /** Of the daemons, in ms. */
  clock = 0;
  #fences = 0;
  /** So many rows have been named, and so many runs begun. */
  named = 0;
  played = 0;
  /** Workers or pauses have changed since the last look. */
  stale = false;
  /** Rows that came back, and nobody is told of: their worker knows, or the transaction that had them was rolled back. */
  readonly unrung = new Set<string>();

  constructor(url: string, breakage: Breakage | undefined) {
    this.broken = breakage?.actors;
    this.observer = new Observer(url);
    this.#database = openDatabase(url, { max: 1 });
    this.#admin = new Outbox(this.#database);
    const lane = (name: string) => {
      const made = new Lane(name, this.lanes.length, url, this.observer);
      this.lanes.push(made);
      return made;
    };
    this.writers = Array.from({ length: WRITERS }, (_, i) => lane(`writer ${i}`));
    this.workers = Array.from(
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
            this.stale = true;
          },
          saw: what => this.saw(what),
        }),
    );
    this.reaper = lane('reaper');
    this.operator = lane('operator');
  }

  async open(sql: string | undefined): Promise<void> {
    await this.observer.open();
    if (sql !== undefined) await this.observer.sql(sql);
    await Promise.all(this.lanes.map(lane => lane.open()));
    for (const worker of this.workers) {
      await worker.wakeUp.start();
      if (!worker.wakeUp.listening) throw new Error(`${worker.name} does not hear its nonce`);
    }
  }

  async close(): Promise<void> {
    await Promise.all(this.workers.map(worker => worker.wakeUp.close()));
    await Promise.all(this.lanes.map(lane => lane.close()));
    await this.#database.destroy();
    await this.observer.close();
  }

  /** Another run begins, with nothing. */
  async reset(): Promise<void> {
    this.played += 1;
    await this.observer.empty();
    for (const worker of this.workers) await worker.reset(() => this.clock);
    this.unrung.clear();
    this.now = await this.observer.snapshot();
  }

  saw(what: string): void {
    this.coverage.set(what, (this.coverage.get(what) ?? 0) + 1);
  }

  deed(deed: NewDeed): Deed {
    return { ...deed, overlap: new Map(), before: this.now } as Deed;
  }

  /** Begins a transaction on a lane that has none, with one statement of a deed. */
  async start(
    lane: Lane,
    what: NewDeed,
    statement: (lane: Lane, deed: Deed) => Promise<void>,
    pause?: Point,
  ): Promise<void> {
    if (lane.active) return;
    const deed = this.deed(what);
    for (const other of this.others(lane)) {
      overlap(deed, other.deed as Deed, other.busy);
      if (other.busy) overlap(other.deed as Deed, deed, true);
    }
    await lane.begin(deed);
    await lane.send(pause, () => statement(lane, deed));
    if (lane.busy) this.saw(lane.held ? `paused: ${deed.kind}` : `waited: ${deed.kind}`);
    else this.ended(lane);
  }

  others(lane: Lane): Lane[] {
    return this.lanes.filter(other => other !== lane && other.active);
  }

  /** The statement of a lane has ended; its transaction has not. */
  ended(lane: Lane): void {
    const deed = lane.deed as Deed;
    lane.reported = true;
    if (lane.error !== undefined) {
      const expected =
        (isLeaseLost(lane.error) && (deed.kind === 'claim' || deed.kind === 'claim a suspect')) ||
        (isWrongState(lane.error) && deed.kind === 'confirm');
      if (!expected) throw new Error(`${describe(deed)} failed: ${lane.error}`, { cause: lane.error });
      this.saw(`refused: ${deed.kind}`);
      return;
    }
    if (deed.kind === 'reap') deed.names = this.ownerless();
    if (deed.kind === 'deregister') deed.names = this.runningOf(deed.worker);
    for (const other of this.others(lane)) if (other.busy) overlap(other.deed as Deed, deed, false);
    if (deed.kind === 'claim') checkClaimed(deed, this.now);
    if (deed.kind === 'settle') {
      checkSettled(deed);
      if (deed.settled.some(id => deed.overlap.get(id)?.has('progress')))
        this.saw('a settle behind progress');
    }
  }

  /** A transaction goes on: from its pause, or to its end. */
  async goOn(lane: Lane, how: End): Promise<void> {
    if (lane.busy) {
      await lane.release();
      await lane.rest();
      if (!lane.busy) this.ended(lane);
      return;
    }
    if (!lane.reported) this.ended(lane);
    const deed = lane.deed as Deed;
    const { error } = lane;
    const committed = error === undefined && how !== 'rollback';
    await lane.end(committed ? 'commit' : 'rollback');
    this.saw(`${error === undefined ? how : 'failed'}: ${deed.kind}`);
    await this.look(committed ? deed : undefined);
    if (!committed) this.wakesNobody(held(deed));
    const worker = this.workers.find(w => Object.values(w.lanes).includes(lane));
    if (worker !== undefined) await worker.heard(deed, { how, committed, error, now: this.now });
    if (deed.kind === 'settle' && committed && deed.settlements.some(s => s.kind === 'back' && !notifies(s)))
      this.wakesNobody(deed.settled);
    for (const other of this.others(lane)) {
      if (other.busy) await other.rest();
      if (!other.busy && !other.reported) this.ended(other);
    }
  }

  /** Commits at once, unless the step says otherwise. */
  async unlessHeld(lane: Lane, { hold }: { hold: boolean }): Promise<void> {
    if (!hold && lane.active && !lane.busy) await this.goOn(lane, 'commit');
  }

  /** After a run that failed: nothing of it is left open. */
  async abandon(): Promise<void> {
    while (this.lanes.some(lane => lane.active)) {
      for (const lane of this.lanes) await lane.release();
      for (const lane of this.lanes) {
        await lane.rest();
        if (lane.active && !lane.busy) await lane.end('rollback');
      }
    }
  }

  /** Nobody need hear of these rows as they are due now. */
  wakesNobody(ids: readonly string[]): void {
    for (const id of ids) {
      const row = this.now.rows.get(id);
      if (row?.state === 'pending') this.unrung.add(dueKey(row));
    }
  }

  /** All that was notified until now has been heard. */
  async fence(): Promise<void> {
    const n = ++this.#fences;
    await this.#admin.notify(`fence ${n}`);
    await Promise.all(this.workers.map(worker => worker.fence(n)));
  }

  /** Looks at what is committed; `deed` is what has just been, if anything. */
  async look(deed: Deed | undefined): Promise<void> {
    const before = this.now;
    const after = await this.observer.snapshot();
    this.now = after;
    this.stale = false;
    checkMoves(before, after, deed);
    checkWorkers(before, after, deed);
    checkRunning(before, after, deed);
  }

  /** Looks where workers or pauses have changed, or where somebody sleeps and a row may have fallen due. */
  async lookIfStale(): Promise<void> {
    const fallingDue = () =>
      this.workers.some(worker => worker.isAsleep) &&
      [...this.now.rows.values()].some(row => row.state === 'pending' && !row.is_due && isSoon(row));
    if (this.stale || fallingDue()) await this.look(undefined);
  }

  async expire(worker: Worker): Promise<void> {
    await this.observer.expire(worker.id);
    await this.look(undefined);
  }

  runningOf(worker: string): string[] {
    return [...this.now.rows.values()]
      .filter(row => row.state === 'running' && row.worker === worker)
      .map(row => row.id);
  }

  ownerless(): string[] {
    const { rows, workers } = this.now;
    return [...rows.values()]
      .filter(row => row.state === 'running' && workers.get(row.worker as string) !== true)
      .map(row => row.id);
  }
}

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
