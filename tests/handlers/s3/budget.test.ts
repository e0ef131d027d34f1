import { describe, expect, it } from 'vitest';
import { Budget } from '../../../src/handlers/s3/budget.ts';

function setUp() {
  let now = 0;
  const budget = new Budget(() => now);
  const going = { shouldYield: () => false };
  return {
    budget,
    pass: (ms: number) => {
      now += ms;
    },
    take: async (keys: number) => await budget.take(keys, going),
  };
}

describe('the budget of a bucket', () => {
  it('has no limit as long as nobody asks for less', async () => {
    const { budget, take } = setUp();
    for (let n = 0; n < 100; n++) budget.answered({ sentAt: await take(1000), keys: 1000, slow: 0 });
    expect(budget.limit).toBeUndefined();
    expect(budget.wait).toBe(0);
    expect(budget.chunk(1000)).toBe(1000);
  });

  it('falls by half when all keys were too many, and by little when few were', async () => {
    const all = setUp();
    all.budget.answered({ sentAt: await all.take(1000), keys: 1000, slow: 1000 });
    expect(all.budget.limit).toBe(500);
    expect(all.budget.chunk(1000)).toBe(125);
    const few = setUp();
    few.budget.answered({ sentAt: await few.take(1000), keys: 1000, slow: 100 });
    expect(few.budget.limit).toBe(950);
  });

  it('is what was sent in the last second when the first complaint comes', async () => {
    const { budget, take, pass } = setUp();
    await take(5000);
    pass(1500);
    for (let n = 0; n < 4; n++) await take(500);
    budget.answered({ sentAt: 1500, keys: 500, slow: 500 });
    expect(budget.limit).toBe(1000);
  });

  it('falls once for what was on its way when it fell, and once a second at most', async () => {
    const { budget, take, pass } = setUp();
    const sent = [await take(1000), await take(1000)];
    for (const sentAt of sent) budget.answered({ sentAt, keys: 1000, slow: 1000 });
    pass(10);
    expect(budget.limit).toBe(1000);
    budget.answered({ sentAt: 0, keys: 1000, slow: 1000 });
    budget.answered({ sentAt: 5, keys: 1000, slow: 1000 });
    expect(budget.limit).toBe(1000);
    pass(1000);
    expect(budget.limit).toBe(1100);
    budget.answered({ sentAt: 1005, keys: 100, slow: 100 });
    expect(budget.limit).toBe(550);
  });

  it('recovers by and by, and is forgotten in the end', async () => {
    const { budget, take, pass } = setUp();
    budget.answered({ sentAt: await take(1000), keys: 1000, slow: 1000 });
    pass(3000);
    expect(budget.limit).toBe(800);
    pass(300_000);
    expect(budget.limit).toBeUndefined();
    expect(budget.wait).toBe(0);
  });

  it('never falls to nothing', async () => {
    const { budget, take, pass } = setUp();
    for (let n = 0; n < 20; n++) {
      budget.answered({ sentAt: await take(1), keys: 1, slow: 1 });
      pass(1100);
    }
    expect(budget.limit).toBeGreaterThanOrEqual(10);
    expect(budget.limit).toBeLessThan(300);
    expect(budget.chunk(1000)).toBeGreaterThan(0);
  });

  it('lets no more go in a second than it says', async () => {
    const { budget, take, pass } = setUp();
    // Whatever went before is no debt.
    for (let n = 0; n < 9; n++) await take(1000);
    pass(2000);
    budget.answered({ sentAt: await take(1000), keys: 1000, slow: 1000 });
    let sent = 0;
    for (let at = 0; at < 900; at += 10) {
      pass(10);
      while (budget.wait === 0) {
        await take(budget.chunk(1000));
        sent += 125;
      }
    }
    // A quarter of a second's worth may be sent ahead.
    expect(sent).toBeGreaterThan(300);
    expect(sent).toBeLessThanOrEqual(500 * 0.9 + 125);
  });

  it('does not hold up what should end', async () => {
    const { budget, take } = setUp();
    budget.answered({ sentAt: await take(1000), keys: 1000, slow: 1000 });
    await take(1);
    await expect(budget.take(1, { shouldYield: () => true })).rejects.toMatchObject({ kind: 'blocked' });
  });
});
