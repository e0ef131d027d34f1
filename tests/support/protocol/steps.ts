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
      readonly pause: boolean;
    }
  /** Takes its snapshot and its now(), and does nothing yet. */
  | {
      readonly do: 'begin';
      readonly writer: number;
      readonly isolation: 'read committed' | 'repeatable read';
    }
  | { readonly do: 'savepoint' | 'rollback to savepoint'; readonly writer: number }
  /** What the loop of a daemon does next: claim, arm, ask when the next row is due, claim once more, sleep. */
  | {
      readonly do: 'go on';
      readonly worker: number;
      readonly room: number;
      readonly pause: boolean;
      readonly mark: boolean;
    }
  | {
      readonly do: 'mark' | 'poll' | 'disarm' | 'claim a suspect' | 'expire' | 'deregister';
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
    }
  | { readonly do: 'progress'; readonly worker: number; readonly row: number; readonly objects: number }
  | { readonly do: 'heartbeat' | 'hand back strays'; readonly worker: number }
  | {
      readonly do: 'reap';
      readonly pause: 'no' | 'before the workers' | 'after the workers' | 'before settling';
    }
  | {
      readonly do: 'operate';
      readonly how: 'cancel' | 'confirm' | 'retry' | 'discard';
      readonly row: number;
      readonly pause: boolean;
    }
  /** A transaction that is open goes on from its pause, or ends. */
  | { readonly do: 'end'; readonly lane: number; readonly how: End }
  /** The clock of the daemons, which their floors go by; in ms. */
  | { readonly do: 'tick'; readonly ms: number }
  | { readonly do: 'pause a store' | 'resume a store'; readonly store: number };

const nat = (max: number) => fc.integer({ min: 0, max });
const worker = nat(WORKERS - 1);
const writer = nat(WRITERS - 1);
const store = fc.constantFrom(0, 0, 0, 1);
const rarely = fc.integer({ min: 0, max: 3 }).map(n => n === 3);
const mostly = fc.integer({ min: 0, max: 3 }).map(n => n !== 3);
const delay = fc.constantFrom(0, 0, 0, 5, 15, 3_600_000);
const isolation = fc.constantFrom(
  'read committed' as const,
  'read committed' as const,
  'repeatable read' as const,
);
const is = <T extends string>(name: T) => fc.constant(name);

export const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 14,
    arbitrary: fc.record({
      do: is('write'),
      writer,
      store,
      how: fc.constantFrom('enqueue', 'insert', 'past', 'several'),
      delay,
      isolation,
      pause: rarely,
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: is('begin'), writer, isolation }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constantFrom('savepoint', 'rollback to savepoint'), writer }) },
  {
    weight: 36,
    arbitrary: fc.record({
      do: is('go on'),
      worker,
      room: fc.constantFrom(100, 100, 1, 2),
      pause: rarely,
      mark: mostly,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constantFrom('mark', 'poll', 'disarm', 'claim a suspect', 'deregister'),
      worker,
    }),
  },
  { weight: 3, arbitrary: fc.record({ do: is('expire'), worker }) },
  {
    weight: 9,
    arbitrary: fc.record({
      do: is('settle'),
      worker,
      as: fc.constantFrom('done', 'done', 'retry', 'blocked', 'yielded', 'handed_back', 'elsewhere', 'dead'),
      rows: fc.array(nat(20), { minLength: 1, maxLength: 3 }),
      late: rarely,
      objects: nat(5),
      delay,
      pause: fc.constantFrom('no', 'no', 'before settling', 'before a row of pending'),
    }),
  },
  { weight: 4, arbitrary: fc.record({ do: is('progress'), worker, row: nat(20), objects: nat(5) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constantFrom('heartbeat', 'hand back strays'), worker }) },
  {
    weight: 5,
    arbitrary: fc.record({
      do: is('reap'),
      pause: fc.constantFrom('no', 'no', 'before the workers', 'after the workers', 'before settling'),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: is('operate'),
      how: fc.constantFrom('cancel', 'confirm', 'retry', 'discard'),
      row: nat(20),
      pause: rarely,
    }),
  },
  {
    weight: 22,
    arbitrary: fc.record({
      do: is('end'),
      lane: nat(20),
      how: fc.constantFrom('commit', 'commit', 'commit', 'commit', 'rollback', 'unheard'),
    }),
  },
  { weight: 7, arbitrary: fc.record({ do: is('tick'), ms: fc.constantFrom(250, 250, 250, 300_000) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constantFrom('pause a store', 'resume a store'), store }) },
);

export const script = fc.array(step, { minLength: 12, maxLength: 60, size: 'max' });
