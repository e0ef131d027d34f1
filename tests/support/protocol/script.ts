/** Scripts: steps in an order that is made up. */
import fc from 'fast-check';
import { type End, nat, often, type Step, step, worker } from './steps.ts';

type Of<K extends Step['do']> = Extract<Step, { do: K }>;

const go = (of: number, more: Partial<Of<'go on'>> = {}): Step => ({
  do: 'go on',
  worker: of,
  room: 100,
  pause: false,
  hold: false,
  mark: true,
  ...more,
});
const write = (by: number, more: Partial<Of<'write'>> = {}): Step => ({
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
const reap = (expired: number, pause: Of<'reap'>['pause'] = 'no'): Of<'reap'> => ({
  do: 'reap',
  expired,
  pause,
  hold: pause !== 'no',
});
const settle = (by: number, more: Partial<Of<'settle'>> = {}): Step => ({
  do: 'settle',
  worker: by,
  as: 'done',
  rows: [-1],
  late: false,
  objects: 1,
  delay: 0,
  pause: 'no',
  hold: false,
  ...more,
});
const progress = (by: number, { hold = false } = {}): Step => ({
  do: 'progress',
  worker: by,
  row: -1,
  objects: 1,
  hold,
});
const retry: Step = { do: 'operate', how: 'retry', row: 0, pause: false, hold: false };
const mark = (by: number): Step => ({ do: 'mark', worker: by });
const pauseStore: Step = { do: 'pause a store', store: 0 };
const tick: Step = { do: 'tick', ms: 250 };
/** Writers come first among what is open, the reaper and the operator last. */
const endFirst = (how: End): Step => ({ do: 'end', lane: 0, how });
const endLast = (how: End): Step => ({ do: 'end', lane: -1, how });
const reaping = fc.constantFrom('no', 'before the workers', 'after the workers', 'before settling');
const ending = fc.constantFrom('commit', 'commit', 'rollback');
const times = (n: number, some: Step): Step[] => Array.from({ length: n }, () => some);
/** Marks and looks from the floor, so often that the floor may rise. */
const rise = (by: number): Step[] => [tick, mark(by), go(by), tick, mark(by), go(by)];

/** Beginnings of what chance alone would begin too rarely; other steps come before and behind, and take them elsewhere. */
const opening: fc.Arbitrary<Step[]> = fc.oneof(
  // A worker is reaped in the middle of its claim, which then commits.
  fc
    .tuple(worker, reaping)
    .map(([w, pause]): Step[] => [write(0), go(w, { hold: true }), reap(w, pause), go(w)]),
  fc
    .tuple(worker, reaping, fc.constantFrom('commit', 'rollback'))
    .map(([w, pause, how]): Step[] => [
      write(0),
      go(w),
      { ...reap(w, pause), hold: true },
      endLast('commit'),
      endLast(how),
    ]),
  // Rows in hand are somebody else's by now.
  worker.map((w): Step[] => [write(0, { how: 'several' }), go(w), reap(w), go(1 - w)]),
  // Or nobody's whom the worker knows of, because it never heard of its claim.
  worker.map((w): Step[] => [
    write(0),
    go(w, { hold: true }),
    endFirst('unheard'),
    { do: 'hand back strays', worker: w, hold: false },
  ]),
  // Progress is stored while a settle waits for it, or has its snapshot already.
  fc
    .tuple(worker, ending)
    .map(([w, how]): Step[] => [write(0), go(w), progress(w, { hold: true }), settle(w), endLast(how)]),
  worker.map((w): Step[] => [
    write(0),
    go(w),
    settle(w, { pause: 'before settling', hold: true }),
    progress(w),
    endFirst('commit'),
    endFirst('commit'),
  ]),
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
  // A person has it in hand meanwhile, and takes it or lets go of it.
  fc
    .tuple(worker, fc.constantFrom('cancel', 'confirm'), fc.constantFrom('commit', 'rollback'))
    .map(([w, how, end]): Step[] => [
      write(0),
      go(w),
      write(0),
      tick,
      mark(w),
      { do: 'operate', how, row: -1, pause: false, hold: true },
      write(0),
      go(w),
      go(w),
      endLast(end),
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
  fc
    .tuple(worker, nat(6))
    .map(([w, n]): Step[] => [write(0), go(w), { do: 'disarm', worker: w }, ...times(n, go(1 - w)), reap(w)]),
  worker.map((w): Step[] => [write(0), go(w), settle(w, { as: 'dead' }), retry]),
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
