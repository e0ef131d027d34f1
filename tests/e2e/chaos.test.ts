import { expect, it } from 'vitest';
import { playChaos } from '../support/chaos.ts';

const ROWS = 1_000;

it('three daemons, one killed every two seconds, PostgreSQL crashed once: all is gone, each row done once', {
  timeout: 240_000,
}, async () => {
  const { kills, takenOver, seconds, ...report } = await playChaos({
    rows: ROWS,
    transactions: 8,
    pace: 700,
    daemons: 3,
    killEvery: 2_000,
    lease: '3s',
    patience: 150_000,
  });
  expect(report).toEqual({
    targetsLeft: 0,
    neighboursLost: 0,
    done: ROWS,
    ids: ROWS,
    dead: [],
    elsewhere: 0,
  });
  expect(kills).toBeGreaterThanOrEqual(2);
  // The kills found something in hand, or this test would show nothing.
  expect(takenOver).toBeGreaterThan(0);
});
