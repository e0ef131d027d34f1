/** The invariants of docs/protocol.md, asked of what is committed, after every step. */
import { allows, type Change, changes, type Deed, type DeedOf, reported, told } from './deeds.ts';
import type { Row, Snapshot } from './observer.ts';

/** A rule of docs/protocol.md that was found broken. */
export class Violation extends Error {
  readonly rule: string;

  constructor(rule: string, what: string) {
    super(`${rule}: ${what}`);
    this.rule = rule;
  }
}

function demand(condition: boolean, rule: string, what: () => string): asserts condition {
  if (!condition) throw new Violation(rule, what());
}

const both = ({ id, was, is }: Change) => `row ${id} went from ${told(was)} to ${told(is)}`;

/** One row, one place; and it moves only by the commit of a deed that may move it. */
export function checkMoves(before: Snapshot, after: Snapshot, deed: Deed | undefined): void {
  demand(after.twice.length === 0, 'one place', () => `rows ${after.twice} stand in more than one place`);
  const all = changes(before, after);
  for (const change of all) {
    demand(deed !== undefined, 'moves', () => `${both(change)}, and nothing had been committed`);
    demand(change.is !== undefined, 'one place', () => `${both(change)} by ${deed.kind}`);
    demand(allows(deed, change, after), 'moves', () => `${both(change)} by ${describe(deed)}`);
  }
  if (deed === undefined) return;
  for (const id of reported(deed) ?? [])
    demand(
      all.some(change => change.id === id),
      'moves',
      () => `${describe(deed)} reported row ${id}, which stands as it stood: ${told(after.rows.get(id))}`,
    );
  if (deed.kind === 'reap')
    demand(
      deed.moved === all.filter(c => c.is?.state === 'pending').length &&
        deed.died === all.filter(c => c.is?.state === 'dead').length,
      'moves',
      () => `a reaper told of ${deed.moved} moved and ${deed.died} dead rows, and it was: ${all.map(both)}`,
    );
  if (deed.kind === 'deregister')
    demand(
      deed.handedBack === all.length,
      'moves',
      () => `handed back ${deed.handedBack}, and it was ${all.map(both)}`,
    );
}

/** A worker ends when its lease has ended and a reaper comes, or when it says so. */
export function checkWorkers(before: Snapshot, after: Snapshot, deed: Deed | undefined): void {
  for (const [worker, live] of before.workers) {
    if (after.workers.has(worker)) continue;
    const mayEnd =
      (deed?.kind === 'reap' && !live) || (deed?.kind === 'deregister' && deed.worker === worker);
    demand(
      mayEnd,
      'lease',
      () => `worker ${worker} (lease ${live ? 'runs' : 'ended'}) was removed by ${deed?.kind}`,
    );
  }
  if (deed?.kind === 'heartbeat')
    demand(
      deed.alive === after.workers.has(deed.worker),
      'lease',
      () => `worker ${deed.worker} was told it is ${deed.alive ? 'alive' : 'lost'}, and is not`,
    );
}

/** A running row has a worker; after a reaper only those that somebody had locked while it looked may have none. */
export function checkRunning(before: Snapshot, after: Snapshot, deed: Deed | undefined): void {
  for (const row of after.rows.values()) {
    if (row.state !== 'running' || after.workers.has(row.worker as string)) continue;
    const was = before.rows.get(row.id);
    const already = was?.state === 'running' && !before.workers.has(was.worker as string);
    const passed = deed?.kind === 'reap' && deed.overlap.has(row.id);
    demand(
      deed?.kind === 'reap' ? passed : already,
      'a running row has a worker',
      () => `row ${row.id}: ${told(row)} stands without its worker after ${deed?.kind ?? 'no commit'}`,
    );
  }
}

/** A settle settles what its worker holds: what stood under its claim and nobody else had in hand meanwhile. */
export function checkSettled(deed: DeedOf<'settle'>): void {
  for (const { row } of deed.settlements) {
    const stood = deed.before.rows.get(row.id);
    if (stood?.state !== 'running' || stood.claim !== row.claim) continue;
    const others = [...(deed.overlap.get(row.id) ?? [])].filter(kind => kind !== 'progress');
    demand(
      others.length > 0 || deed.settled.includes(row.id),
      'a settle of what is held settles it',
      () => `row ${row.id} was held under claim ${row.claim}, and the settle passed it by`,
    );
  }
}

/** A claim finds what is due from its floor on, was committed when it began, and was in nobody's hands meanwhile. */
export function checkClaimed(deed: DeedOf<'claim'>, now: Snapshot): void {
  for (const [store, room] of deed.rooms) {
    const mine = deed.rows.filter(row => row.store === store);
    if (deed.before.paused.has(store)) {
      demand(mine.length === 0, 'moves', () => `${store} is paused, and rows of it were claimed`);
      continue;
    }
    demand(mine.length <= room, 'moves', () => `${mine.length} rows for a room of ${room}`);
    const last = Math.max(...mine.map(row => row.dueAt));
    for (const row of deed.before.rows.values()) {
      if (row.state !== 'pending' || row.store !== store || !row.is_due || (row.lost ?? 0) >= 3) continue;
      const due = row.due as number;
      if (due < (deed.from.get(store) ?? Number.NEGATIVE_INFINITY) || deed.overlap.has(row.id)) continue;
      if (now.rows.get(row.id)?.due !== due || (mine.length === room && due >= last)) continue;
      demand(
        mine.some(r => r.id === row.id),
        'a claim finds what is due',
        () => `row ${row.id}: ${told(row)} was passed by; found: ${mine.map(r => r.id)}`,
      );
    }
  }
}

export function describe(deed: Deed): string {
  switch (deed.kind) {
    case 'claim':
      return `claim by worker ${deed.worker} of ${deed.rows.map(row => `${row.id} (claim ${row.claim})`)}`;
    case 'settle':
      return `settle (${deed.settlements.map(s => `${s.kind} ${s.row.id} claim ${s.row.claim} objects ${s.objects}`)}), settled: ${deed.settled}`;
    case 'progress':
      return `progress of ${deed.row.id} under claim ${deed.row.claim}`;
    default:
      return deed.kind;
  }
}

/** Which row, as it was due that time: what comes back is due anew. */
export const dueKey = (row: { id: string; due: number | null }) => `${row.id} due ${row.due}`;

/** Due within a minute: what is due later is due in an hour, and none of this run's business. */
export const isSoon = (row: Row) => (row.due as number) < Date.now() * 1000 + 60e6;

export { demand };
