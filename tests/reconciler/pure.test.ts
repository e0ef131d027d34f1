import { describe, expect, it } from 'vitest';
import type { Result } from '../../src/handlers/contract.ts';
import type { ClaimedRow } from '../../src/outbox/rows.ts';
import { bound, fullJitter } from '../../src/reconciler/backoff.ts';
import { formBatches } from '../../src/reconciler/batch.ts';
import { Breaker } from '../../src/reconciler/breaker.ts';
import { outsideMessage, rootOf } from '../../src/reconciler/confine.ts';
import type { Outcome } from '../../src/reconciler/dispatch.ts';
import { askHolders, NotNow } from '../../src/reconciler/guard.ts';
import { Linger } from '../../src/reconciler/linger.ts';
import { Neighbours } from '../../src/reconciler/neighbours.ts';
import { resolveSettings } from '../../src/reconciler/options.ts';
import { type OutcomePolicy, settlementOf } from '../../src/reconciler/outcome.ts';
import { Rate } from '../../src/reconciler/rate.ts';
import { Signal } from '../../src/reconciler/signal.ts';
import { parseTarget } from '../../src/target.ts';
import { fakeHandler } from '../support/fake-handler.ts';

const row: ClaimedRow = {
  id: '1',
  claim: '7',
  target: 'fake://store/a',
  store: 'fake://store',
  pruneParents: 0,
  attempt: 0,
  lost: 0,
  objects: null,
  bytes: null,
  waited: 0,
  claimedAt: 0,
  dueAt: 0,
};
const policy: OutcomePolicy = { maxAttempts: 3, backoff: { base: 1_000, cap: 60_000 }, slice: 10_000 };
const calm = { stopping: false, storeWait: 0 };
const decide = (result: Outcome, changes: Partial<ClaimedRow> = {}, circumstances = calm) =>
  settlementOf({ ...row, ...changes }, result, policy, circumstances);

describe('backoff', () => {
  it('doubles from base to cap, and never leaves them', () => {
    const options = { base: 1_000, cap: 3_600_000 };
    expect([1, 2, 3, 12, 13, 5_000].map(n => bound(n, options))).toEqual([
      1_000, 2_000, 4_000, 2_048_000, 3_600_000, 3_600_000,
    ]);
    expect(bound(5_000, { base: 0, cap: 10 })).toBe(0);
  });

  it('is full jitter: anything from 0 to the bound', () => {
    const options = { base: 1_000, cap: 10_000 };
    expect(fullJitter(3, options, () => 0)).toBe(0);
    expect(fullJitter(3, options, () => 0.5)).toBe(2_000);
    expect(fullJitter(9, options, () => 1)).toBe(10_000);
  });
});

describe('a settlement', () => {
  const receipt = { objects: 2, bytes: 10 };
  it('adds up what all slices deleted', () => {
    expect(decide({ outcome: 'deleted', ...receipt }, { objects: 5, bytes: null })).toMatchObject({
      objects: 7,
      bytes: 10,
    });
    expect(decide({ outcome: 'yielded', ...receipt }, { objects: 5, bytes: 1 })).toMatchObject({
      kind: 'back',
      reason: 'yielded',
      objects: 7,
      bytes: 11,
    });
  });

  it('of something gone that an earlier slice has deleted from is deleted, not absent', () => {
    expect(decide({ outcome: 'absent', objects: 0, bytes: null }, { objects: 5 })).toMatchObject({
      outcome: 'deleted',
      objects: 5,
    });
    expect(decide({ outcome: 'absent', objects: 0, bytes: null })).toMatchObject({
      outcome: 'absent',
      objects: 0,
    });
  });

  it('of a slice without progress costs an attempt, unless the daemon stops', () => {
    const idle: Result = { outcome: 'yielded', objects: 0, bytes: null };
    expect(decide(idle)).toMatchObject({ kind: 'back', reason: 'retry' });
    expect(decide(idle, {}, { ...calm, stopping: true })).toMatchObject({
      kind: 'back',
      reason: 'handed_back',
    });
  });

  it('of what was not touched burns no attempt, and comes back when it is told to', () => {
    const untouched = { outcome: 'handed_back', objects: 0, bytes: null } as const;
    const back = { kind: 'back', reason: 'handed_back', error: null };
    expect(decide(untouched)).toMatchObject({ ...back, delay: 0 });
    expect(decide({ ...untouched, delay: 1_000 })).toMatchObject({ ...back, delay: 1_000 });
  });

  it('of the last attempt is dead, and says so', () => {
    expect(decide({ outcome: 'retry', error: 'no', objects: 0, bytes: null }, { attempt: 2 })).toMatchObject({
      kind: 'dead',
      error: 'given up after attempt 3 of 3: no',
    });
  });

  it('of a store that is down costs no attempt, and comes back when the store is probed', () => {
    const down: Result = { outcome: 'unavailable', error: 'refused', objects: 0, bytes: null };
    expect(decide(down, { attempt: 2 }, { ...calm, storeWait: 4_000 })).toMatchObject({
      kind: 'back',
      reason: 'blocked',
      delay: 4_000,
      error: 'refused',
    });
  });

  it('of a blocked row looks again within 5 minutes, however old it is', () => {
    const blocked: Result = { outcome: 'blocked', error: 'held', objects: 0, bytes: null };
    expect(decide(blocked)).toMatchObject({ reason: 'blocked', delay: 1_000 });
    expect(decide(blocked, { waited: 1e9 })).toMatchObject({ delay: 300_000 });
  });
});

describe('the breaker', () => {
  const make = () => {
    const clock = { now: 0 };
    return { clock, breaker: new Breaker({ threshold: 3, base: 500, cap: 2_000 }, () => clock.now) };
  };

  it('opens after three failures in a row, not before', () => {
    const { breaker } = make();
    breaker.failure();
    breaker.failure();
    breaker.success();
    expect([breaker.failure(), breaker.failure(), breaker.open]).toEqual([false, false, false]);
    expect([breaker.failure(), breaker.open, breaker.wait]).toEqual([true, true, 500]);
  });

  it('waits longer after every failed probe, up to the cap; failures in between tell nothing new', () => {
    const { breaker, clock } = make();
    for (let i = 0; i < 3; i++) breaker.failure();
    const waits: number[] = [];
    for (let i = 0; i < 4; i++) {
      waits.push(breaker.wait);
      breaker.failure();
      expect(breaker.wait).toBe(waits[i]);
      clock.now += breaker.wait;
      expect(breaker.wait).toBe(0);
      breaker.failure();
    }
    expect(waits).toEqual([500, 1_000, 2_000, 2_000]);
    expect([breaker.success(), breaker.open, breaker.wait]).toEqual([true, false, 0]);
  });
});

describe('batches', () => {
  const task = (target: string) => ({
    cleanup: { id: target, target: parseTarget(target), root: 'fake://b/', pruneParents: 0, attempt: 0 },
  });
  it('hold single targets up to the size, and trees alone', () => {
    const targets = ['fake://b/1', 'fake://b/2', 'fake://b/t/', 'fake://b/3', 'fake://b/4', 'fake://b/u/'];
    const batches = formBatches(targets.map(task), 3).map(batch => batch.map(t => t.cleanup.id));
    expect(batches).toEqual([
      ['fake://b/1', 'fake://b/2', 'fake://b/3'],
      ['fake://b/t/'],
      ['fake://b/4'],
      ['fake://b/u/'],
    ]);
  });
});

describe('confinement', () => {
  const roots = ['file:///data/a/', 's3://bucket/x/'];
  it('finds the root that a target lies strictly inside', () => {
    expect(rootOf('file:///data/a/1', roots)).toBe('file:///data/a/');
    expect(rootOf('file:///data/a/', roots)).toBeUndefined();
    expect(rootOf('file:///data/ab', roots)).toBeUndefined();
  });
  it('says which rule a target breaks', () => {
    expect(outsideMessage('file:///data/a/', roots)).toContain('is the root file:///data/a/ itself');
    expect(outsideMessage('file:///data/a/.afterdelete-root', roots)).toContain('marks the root');
    expect(outsideMessage('file:///etc/passwd', roots)).toContain(
      'outside every root (file:///data/a/, s3://bucket/x/)',
    );
  });
});

describe('settings', () => {
  const options = { databaseUrl: 'postgresql://x', handlers: [fakeHandler()], roots: ['fake://b/'] };
  const resolve = (changes: object) => () => resolveSettings({ ...options, ...changes });
  it.each([
    [{ roots: [] }, 'roots: expected at least one root'],
    [{ roots: ['fake://b/x'] }, 'a root ends with a slash'],
    [{ roots: ['fake://b/', 'fake://b/x/'] }, 'fake://b/x/ inside fake://b/'],
    [{ roots: ['gs://b/'] }, 'a scheme that a handler deletes (fake:)'],
    [{ prefetch: 0 }, 'prefetch: expected a whole number from 1, got 0'],
    [{ retryBase: 10, retryCap: 5 }, 'retryBase: expected at most retryCap (5), got 10'],
    [{ lease: 10 }, 'lease: expected at least 1000 milliseconds, got 10'],
    [{ fuse: { cleanups: 0, window: 1_000 } }, 'fuse.cleanups: expected a whole number from 1, got 0'],
    [{ fuse: { cleanups: 1.5, window: 1_000 } }, 'fuse.cleanups: expected a whole number from 1, got 1.5'],
    [
      { fuse: { cleanups: 1, window: 999 } },
      'fuse.window: expected milliseconds from 1000 to 31536000000, got 999',
    ],
    [{ fuse: { cleanups: 1, window: Number.POSITIVE_INFINITY } }, 'fuse.window: expected milliseconds'],
    [{ fuse: '100000/1h' }, 'fuse: expected off, or { cleanups, window }, got 100000/1h'],
    [{ fuse: null }, 'fuse: expected off, or { cleanups, window }, got null'],
  ])('%j is refused: %s', (changes, message) => {
    expect(resolve(changes)).toThrow(message);
  });
  it('leave enough of the lease for the longest storage call after a heartbeat', () => {
    const { storageTimeout, margin, lease } = resolve({})();
    expect(storageTimeout + margin).toBeLessThan((lease * 3) / 4);
  });
});

it('the linger ends NOTIFY while rows come fast, and not when they come slowly', () => {
  const clock = { now: 0 };
  const linger = new Linger(() => clock.now);
  linger.claimed(1);
  expect(linger.pause).toBe(0);
  linger.claimed(100);
  expect(linger.pause).toBeGreaterThan(0);
  clock.now += 1_000;
  expect(linger.pause).toBe(0);
});

it('the linger ends NOTIFY while writers notify fast, for longer, though other daemons have their rows', () => {
  const clock = { now: 0 };
  const linger = new Linger(() => clock.now);
  for (let i = 0; i < 25; i++) {
    linger.notified();
    linger.claimed(1);
  }
  // A row that was claimed was notified, too: that is one, not two.
  expect(linger.pause).toBe(0);
  linger.notified();
  expect(linger.pause).toBeGreaterThan(0);
  // Nobody notifies it of anything now. Were it to arm at once, writers would pay again.
  clock.now += 900;
  expect(linger.pause).toBeGreaterThan(0);
  clock.now += 200;
  expect(linger.pause).toBe(0);
  // Still so fast: this time for longer.
  for (let i = 0; i < 26; i++) linger.notified();
  expect(linger.pause).toBeGreaterThan(0);
  clock.now += 1_900;
  expect(linger.pause).toBeGreaterThan(0);
  clock.now += 60_000;
  expect(linger.pause).toBe(0);
  // Slowly: a notification every 20 ms.
  for (let i = 0; i < 1_000; i++) {
    clock.now += 20;
    linger.notified();
    expect(linger.pause).toBe(0);
  }
});

it('a signal that rings while nobody waits ends the next wait', async () => {
  const signal = new Signal<string>();
  signal.ring('a');
  signal.ring('b');
  expect(await signal.wait(60_000)).toBe('a');
  expect(await signal.wait(0)).toBeUndefined();
  const waiting = signal.wait(60_000);
  signal.ring('c');
  expect(await waiting).toBe('c');
});

describe('the rate of a store', () => {
  it("lets a second's worth go at once, and then as much as the bucket fills", () => {
    let now = 0;
    const rate = new Rate(10, () => now);
    for (let i = 0; i < 10; i++) {
      expect(rate.wait).toBe(0);
      rate.spend(1);
    }
    expect(rate.wait).toBeGreaterThan(0);
    now += 101;
    expect(rate.wait).toBe(0);
    // More than there is: a debt, paid at the rate.
    rate.spend(100);
    expect(rate.wait).toBeGreaterThan(9_000);
    now += 5_000;
    expect(rate.wait).toBeGreaterThan(4_000);
    now += 60_000;
    expect(rate.wait).toBe(0);
    rate.spend(10);
    // It never holds more than a second's worth.
    expect(rate.wait).toBeGreaterThan(0);
  });
});

describe('the roots of others', () => {
  it('are theirs for a while after the last who served them has gone', async () => {
    let live = ['file:///a/', 'file:///b/'];
    let now = 0;
    let changes = 0;
    const neighbours = new Neighbours({
      outbox: { liveRoots: async () => live },
      mine: ['file:///a/'],
      grace: 1_000,
      onChange: () => {
        changes += 1;
      },
      now: () => now,
    });
    const at = async (moment: number) => {
      now = moment;
      return [await neighbours.refresh(), neighbours.roots, changes];
    };
    const both = ['file:///a/', 'file:///b/'];
    expect(await at(0)).toEqual([both, ['file:///b/'], 1]);
    live = ['file:///a/'];
    // It counts from when it was missed, however long nobody had asked.
    expect(await at(5_000)).toEqual([both, ['file:///b/'], 1]);
    expect(await at(5_999)).toEqual([both, ['file:///b/'], 1]);
    live = both;
    expect(await at(6_500)).toEqual([both, ['file:///b/'], 1]);
    live = ['file:///a/'];
    expect(await at(7_000)).toEqual([both, ['file:///b/'], 1]);
    expect(await at(8_000)).toEqual([['file:///a/'], [], 2]);
  });
});

describe('a guard whose database', () => {
  const failure = (message: string, code?: string) => Object.assign(new Error(message), { code });

  it.each([
    [failure('connect ECONNREFUSED', 'ECONNREFUSED'), 'is away'],
    [failure('terminating connection', '57P01'), 'is away'],
    [failure('the database system is starting up', '57P03'), 'is away'],
    [failure('sorry, too many clients already', '53300'), 'is away'],
    [failure('Connection terminated unexpectedly'), 'is away'],
    [failure('claim 1 was given by another server', 'AD003'), 'is away'],
    [failure('Query read timeout'), 'has an answer of its own'],
    [failure('canceling statement', '57014'), 'has an answer of its own'],
    [failure('relation does not exist', '42P01'), 'has an answer of its own'],
  ])('throws %s %s', async (error, kind) => {
    const guard = askHolders({ ask: () => Promise.reject(error) });
    const thrown = await guard(['file:///a'], '1').catch((reason: unknown) => reason);
    expect(thrown instanceof NotNow).toBe(kind === 'is away');
    expect(thrown instanceof NotNow ? thrown.cause : thrown).toBe(error);
  });

  it('is away for long, though it gives out rows, blocks them', async () => {
    let now = 0;
    let down = true;
    const ask = async () => (down ? await Promise.reject(failure('no', 'ECONNREFUSED')) : []);
    const guard = askHolders({ ask }, () => now);
    const isNotNow = async (moment: number) => {
      now = moment;
      return await guard([], '1').then(
        () => 'answered',
        (error: unknown) => error instanceof NotNow,
      );
    };
    const ask5 = async (from: number) => [await isNotNow(from), await isNotNow(from + 5_000)];
    expect(await ask5(0)).toEqual([true, true]);
    expect(await ask5(9_999)).toEqual([true, false]);
    // Nobody had asked for a while, or it has answered: it begins anew.
    expect(await ask5(100_000)).toEqual([true, true]);
    down = false;
    expect(await isNotNow(106_000)).toBe('answered');
    down = true;
    expect(await ask5(110_000)).toEqual([true, true]);
  });
});
