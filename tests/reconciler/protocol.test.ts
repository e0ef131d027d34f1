/**
 * The protocol of docs/protocol.md, in random interleavings over real sessions. `npm run bench:protocol` plays thousands of runs, and
 * repeats one by its seed and path.
 */
import { describe, expect, it, onTestFinished } from 'vitest';
import { createDatabase } from '../support/database.ts';
import { BREAKAGES, type Breakage, SEED } from '../support/protocol/breakages.ts';
import { openProtocol, type Protocol } from '../support/protocol/protocol.ts';
import { type Found, KINDS, search } from '../support/protocol/search.ts';

async function open(breakage?: Breakage): Promise<Protocol> {
  const db = await createDatabase();
  const protocol = await openProtocol(db.url, breakage);
  onTestFinished(() => protocol.close());
  return protocol;
}

it('after every step of random interleavings, every rule of docs/protocol.md holds', {
  timeout: 480_000,
}, async () => {
  const protocol = await open();
  const missing = () => KINDS.filter(kind => !protocol.coverage.has(kind));
  const play = async (runs: number) => {
    const found = await search(protocol, { runs, seed: Math.floor(Math.random() * 2 ** 31), shrink: 30_000 });
    expect(found?.report).toBeUndefined();
  };
  await play(100);
  // What is rare may not have come by chance: then some more, but not for ever.
  for (let more = 0; more < 4 && missing().length > 0; more++) await play(50);
  expect(missing()).toEqual([]);
});

describe('a rule that is broken on purpose is missed:', () => {
  it.each(Object.entries(BREAKAGES))('%s', { timeout: 600_000 }, async (_, breakage) => {
    const protocol = await open(breakage);
    const { seen: path, breaks } = breakage;
    let found: Found | undefined;
    // Rows fall due by the clock, so that a run may fail once and not again.
    for (let chance = 0; chance < 6 && found === undefined; chance++)
      found = await search(protocol, { runs: 1, seed: SEED, path, shrink: 0 });
    // Scripts have changed since it was seen: any run will do.
    found ??= await search(protocol, { runs: 1_500, seed: SEED, shrink: 0 });
    expect(breaks).toContain(found?.rule);
  });
});
