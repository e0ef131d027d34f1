/** What a run consists of: steps of writers, workers, a reaper and an operator, in an order that is made up. */
import fc from 'fast-check';

export const STORES = ['fake://a', 'fake://b'] as const;
export const WRITERS = 2;
export const WORKERS = 2;

/** How a transaction ends; `unheard`: it commits, and whoever sent it never gets the answer. */
export type End = 'commit' | 'rollback' | 'unheard';

export type Step =
  /** A row, in the transaction that the writer has open, or in a new one. */
  | {
      readonly do: 'write';
      readonly writer: number;
      readonly store: number;
      readonly how: 'enqueue' | 'insert' | 'past' | 'several';
      /** In ms. */
      readonly delay: number;
      readonly isolation: 'read committed' | 'repeatable read';
      /** Behind a savepoint, which takes it back. */
      readonly undone: boolean;
      readonly pause: boolean;
      /** Stays open; otherwise it is committed at once, unless it pauses. */
      readonly hold: boolean;
    }
  /** Takes its snapshot and its now(), and does nothing yet. */
  | {
      readonly do: 'begin';
      readonly writer: number;
      readonly isolation: 'read committed' | 'repeatable read';
    }
  /** What the loop of a daemon does next: claim, arm, ask when the next row is due, claim once more, sleep. */
  | {
      readonly do: 'go on';
      readonly worker: number;
      readonly room: number;
      readonly pause: boolean;
      readonly hold: boolean;
      readonly mark: boolean;
    }
  | {
      readonly do: 'mark' | 'poll' | 'disarm' | 'claim a suspect' | 'expire';
      readonly worker: number;
    }
  | {
      readonly do: 'settle';
      readonly worker: number;
      readonly as: 'done' | 'retry' | 'blocked' | 'yielded' | 'handed_back' | 'elsewhere' | 'dead';
      /** Which of the rows in hand, or (`late`) of all that it has ever had in hand. */
      readonly rows: readonly number[];
      readonly late: boolean;
      readonly objects: number;
      readonly delay: number;
      readonly pause: 'no' | 'before settling' | 'before a row of pending';
      readonly hold: boolean;
    }
  | {
      readonly do: 'progress';
      readonly worker: number;
      readonly row: number;
      readonly objects: number;
      readonly hold: boolean;
    }
  | {
      readonly do: 'heartbeat' | 'hand back strays' | 'deregister';
      readonly worker: number;
      readonly hold: boolean;
    }
  /** The worker gives its claim up, which goes on by itself: a query that timed out. */
  | { readonly do: 'abandon'; readonly worker: number }
  /** `expired`: this worker's lease has just ended. */
  | {
      readonly do: 'reap';
      readonly expired: number | undefined;
      readonly pause: 'no' | 'before the workers' | 'after the workers' | 'before settling';
      readonly hold: boolean;
    }
  | {
      readonly do: 'operate';
      readonly how: 'cancel' | 'confirm' | 'retry' | 'discard';
      readonly row: number;
      readonly pause: boolean;
      readonly hold: boolean;
    }
  /** A transaction that is open goes on from its pause, or ends. */
  | { readonly do: 'end'; readonly lane: number; readonly how: End }
  /** The clock of the daemons, which their floors go by; in ms. */
  | { readonly do: 'tick'; readonly ms: number }
  /** Really passes, so that rows fall due; in ms. */
  | { readonly do: 'wait'; readonly ms: number }
  | { readonly do: 'pause a store' | 'resume a store'; readonly store: number };

const nat = (max: number) => fc.integer({ min: 0, max });
const worker = nat(WORKERS - 1);
const writer = nat(WRITERS - 1);
const store = fc.constantFrom(0, 0, 0, 1);
const rarely = nat(5).map(n => n === 5);
const hold = nat(2).map(n => n === 2);
const mostly = nat(3).map(n => n !== 3);
const delay = fc.constantFrom(0, 0, 0, 0, 5, 10, 3_600_000);
const isolation = fc.constantFrom('read committed', 'read committed', 'repeatable read');
const is = <T extends string>(name: T) => fc.constant(name);
const often = <T>(weight: number, arbitrary: fc.Arbitrary<T>) => ({ weight, arbitrary });

export const step: fc.Arbitrary<Step> = fc.oneof(
  often(
    16,
    fc.record({
      do: is('write'),
      writer,
      store,
      how: fc.constantFrom('enqueue', 'insert', 'past', 'several'),
      delay,
      isolation,
      undone: rarely,
      pause: rarely,
      hold,
    }),
  ),
  often(1, fc.record({ do: is('begin'), writer, isolation })),
  often(
    34,
    fc.record({
      do: is('go on'),
      worker,
      room: fc.constantFrom(100, 100, 1, 2),
      pause: rarely,
      hold: rarely,
      mark: mostly,
    }),
  ),
  often(2, fc.record({ do: fc.constantFrom('mark', 'poll', 'disarm', 'claim a suspect'), worker })),
  often(1, fc.record({ do: fc.constantFrom('expire', 'abandon'), worker })),
  often(
    12,
    fc.record({
      do: is('settle'),
      worker,
      as: fc.constantFrom('done', 'done', 'retry', 'blocked', 'yielded', 'handed_back', 'elsewhere', 'dead'),
      rows: fc.array(nat(20), { minLength: 1, maxLength: 3 }),
      late: hold,
      objects: nat(5),
      delay,
      pause: fc.constantFrom('no', 'no', 'before settling', 'before a row of pending'),
      hold,
    }),
  ),
  often(4, fc.record({ do: is('progress'), worker, row: nat(20), objects: nat(5), hold })),
  often(
    3,
    fc.record({
      do: fc.constantFrom('heartbeat', 'heartbeat', 'hand back strays', 'deregister'),
      worker,
      hold,
    }),
  ),
  often(
    6,
    fc.record({
      do: is('reap'),
      expired: fc.constantFrom(0, 1, undefined, undefined),
      pause: fc.constantFrom('no', 'no', 'before the workers', 'after the workers', 'before settling'),
      hold,
    }),
  ),
  often(
    4,
    fc.record({
      do: is('operate'),
      how: fc.constantFrom('cancel', 'confirm', 'retry', 'discard'),
      row: nat(20),
      pause: rarely,
      hold,
    }),
  ),
  often(
    14,
    fc.record({
      do: is('end'),
      lane: nat(20),
      how: fc.constantFrom('commit', 'commit', 'commit', 'commit', 'rollback', 'unheard'),
    }),
  ),
  often(8, fc.record({ do: is('tick'), ms: fc.constantFrom(250, 250, 250, 250, 300_000) })),
  often(3, fc.record({ do: fc.constantFrom('pause a store', 'resume a store'), store })),
);

const go = (of: number, more: Partial<Extract<Step, { do: 'go on' }>> = {}): Step => ({
  do: 'go on',
  worker: of,
  room: 100,
  pause: false,
  hold: false,
  mark: true,
  ...more,
});
const write = (by: number, more: Partial<Extract<Step, { do: 'write' }>> = {}): Step => ({
  do: 'write',
  writer: by,
  store: 0,
  how: 'insert',
  delay: 0,
  isolation: 'read committed',
  undone: false,
  pause: false,
  hold: false,
  ...more,
});
const reap = (expired: number, pause: Extract<Step, { do: 'reap' }>['pause'] = 'no'): Step => ({
  do: 'reap',
  expired,
  pause,
  hold: pause !== 'no',
});
const settleDead = (by: number): Step => ({
  do: 'settle',
  worker: by,
  as: 'dead',
  rows: [0],
  late: false,
  objects: 1,
  delay: 0,
  pause: 'no',
  hold: false,
});
const retry: Step = { do: 'operate', how: 'retry', row: 0, pause: false, hold: false };
const mark = (by: number): Step => ({ do: 'mark', worker: by });
const pauseStore: Step = { do: 'pause a store', store: 0 };
const tick: Step = { do: 'tick', ms: 250 };
/** Writers come first among what is open. */
const endFirst = (how: End): Step => ({ do: 'end', lane: 0, how });
const reaping = fc.constantFrom('no', 'before the workers', 'after the workers', 'before settling');
const times = (n: number, some: Step): Step[] => Array.from({ length: n }, () => some);
/** Marks and looks from the floor, so often that the floor may rise. */
const rise = (by: number): Step[] => [tick, mark(by), go(by), tick, mark(by), go(by)];

/** Beginnings of what chance alone would begin too rarely; other steps come before and behind, and take them elsewhere. */
const opening: fc.Arbitrary<Step[]> = fc.oneof(
  // A worker is reaped in the middle of its claim, which then commits.
  fc
    .tuple(worker, reaping)
    .map(([w, pause]): Step[] => [write(0), go(w, { hold: true }), reap(w, pause), go(w)]),
  // Rows in hand are somebody else's by now.
  worker.map((w): Step[] => [write(0, { how: 'several' }), go(w), reap(w), go(1 - w)]),
  // A transaction commits late, when floors may have risen past it; or while a claim looks.
  fc
    .tuple(worker, fc.boolean())
    .map(([w, pause]): Step[] => [write(0, { hold: true, pause }), write(1), go(w), ...rise(w)]),
  worker.map((w): Step[] => [
    write(0, { hold: true }),
    write(1),
    go(w),
    tick,
    go(w, { hold: true }),
    endFirst('commit'),
    tick,
    go(w),
  ]),
  // Beside a store that is paused the floors of others may rise.
  worker.map((w): Step[] => [
    write(0, { hold: true }),
    write(1),
    go(w),
    endFirst('commit'),
    pauseStore,
    ...rise(w),
  ]),
  // A claim holds a row while the floor of somebody else rises past it, and is rolled back.
  fc
    .tuple(worker, fc.boolean())
    .map(([w, abandon]): Step[] => [
      write(0),
      go(w),
      write(0),
      tick,
      mark(w),
      go(1 - w, { hold: true }),
      ...(abandon ? [{ do: 'abandon', worker: 1 - w } as const] : []),
      write(0),
      go(w),
      go(w),
      endFirst('rollback'),
    ]),
  // A daemon goes to sleep, and somebody commits at any moment of it; or a row falls due; or its fellow vanishes.
  fc
    .tuple(worker, fc.boolean(), nat(5))
    .map(([w, hold, n]): Step[] => [write(0, { hold }), ...times(n, go(w)), endFirst('commit')]),
  worker.map((w): Step[] => [
    write(0, { delay: 10 }),
    go(w),
    go(w),
    go(w, { hold: true }),
    { do: 'wait', ms: 12 },
    go(w),
    go(w),
  ]),
  fc.tuple(worker, nat(6)).map(([w, n]): Step[] => [write(0), go(w), ...times(n, go(1 - w)), reap(w)]),
  worker.map((w): Step[] => [write(0), go(w), settleDead(w), retry]),
);

export const script = fc
  .array(
    fc.oneof(
      often(
        6,
        step.map(one => [one]),
      ),
      often(1, opening),
    ),
    { minLength: 12, maxLength: 40, size: 'max' },
  )
  .map(parts => parts.flat());
