/** What a run consists of: steps of writers, workers, a reaper and an operator. */
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
      /** Which of the rows in hand, or (`late`) of all that it has ever had in hand; -1: the last. */
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
  /** A transaction that is open goes on from its pause, or ends; -1: the last of them in the order of `Stage.lanes`. */
  | { readonly do: 'end'; readonly lane: number; readonly how: End }
  /** The clock of the daemons, which their floors go by; in ms. */
  | { readonly do: 'tick'; readonly ms: number }
  /** Really passes, so that rows fall due; in ms. */
  | { readonly do: 'wait'; readonly ms: number }
  | { readonly do: 'pause a store' | 'resume a store'; readonly store: number };

export const nat = (max: number) => fc.integer({ min: 0, max });
export const worker = nat(WORKERS - 1);
const writer = nat(WRITERS - 1);
const store = fc.constantFrom(0, 0, 0, 1);
const rarely = nat(5).map(n => n === 5);
const hold = nat(2).map(n => n === 2);
const mostly = nat(3).map(n => n !== 3);
const delay = fc.constantFrom(0, 0, 0, 0, 5, 10, 3_600_000);
const isolation = fc.constantFrom('read committed', 'read committed', 'repeatable read');
const is = <T extends string>(name: T) => fc.constant(name);
export const often = <T>(weight: number, arbitrary: fc.Arbitrary<T>) => ({ weight, arbitrary });

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
