/**
 * The protocol of docs/protocol.md, in random interleavings over real sessions. `npm run bench:protocol` plays thousands of runs, and
 * repeats one by its seed and path.
 */
import { describe, expect, it, onTestFinished } from 'vitest';
import { createDatabase } from '../support/database.ts';
import { BREAKAGES, type Breakage } from '../support/protocol/breakages.ts';
import { openProtocol, type Protocol } from '../support/protocol/protocol.ts';
import { KINDS, search } from '../support/protocol/search.ts';

async function open(breakage?: Breakage): Promise<Protocol> {
  const db = await createDatabase();
  const protocol = await openProtocol(db.url, breakage);
  onTestFinished(() => protocol.close());
  return protocol;
}

it('after every step of random interleavings, every rule of docs/protocol.md holds', {
  timeout: 120_000,
}, async () => {
  const protocol = await open();
  const seed = Date.now() % 2 ** 31;
  const found = await search(protocol, { runs: 150, seed, shrink: 30_000 });
  expect(found?.report).toBeUndefined();
  expect(KINDS.filter(kind => !protocol.coverage.has(kind))).toEqual([]);
});

describe('a rule that is broken on purpose is missed:', () => {
  it.each(Object.entries(BREAKAGES))('%s', { timeout: 120_000 }, async (_, breakage) => {
    const protocol = await open(breakage);
    const found = await search(protocol, { runs: 1_500, seed: 1, shrink: 0 });
    expect(breakage.breaks).toContain(found?.rule);
  });
});
