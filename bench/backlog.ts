/**
 * What the length of the backlog costs: the first rows of a short and of a long one, drained by one process:
 * `npm run bench:backlog -- [long] [drained] [rounds]`. The short backlog is what is drained.
 *
 * The long one is written once, in a database of its own, and loses a part with every round; the short one is written anew.
 */
import { CONTESTANTS } from './contestants/index.ts';
import { settleDown, watchLive } from './contestants/prepare.ts';
import { drain, type Entry, inTurn, judge, printDrained, rateOf, tellDrained } from './contestants/race.ts';
import { OUR_DEFAULTS } from './contestants/settings.ts';
import { machine, onStage } from './stage.ts';

const LONG = Number(process.argv[2] ?? 10_000_000);
const DRAINED = Number(process.argv[3] ?? 200_000);
const ROUNDS = Number(process.argv[4] ?? 5);
const ROOT = 'noop://store/';
const TARGET = `'${ROOT}' || i`;
/** Rows that are written in one transaction. */
const CHUNK = 500_000;

const { clear, fill } = CONTESTANTS.afterdelete;
const short: Entry = { ...OUR_DEFAULTS, label: `${DRAINED} of ${DRAINED}` };
const long: Entry = { ...OUR_DEFAULTS, label: `${DRAINED} of ${LONG}` };

await onStage(async stage => {
  const shortDb = stage.db;
  const longDb = await stage.openDatabase('long');
  for (const db of [shortDb, longDb]) await watchLive(db, `${ROOT}{id}`);
  console.log(`writing ${LONG} rows`);
  // The last round finds as many as the first, but for what one daemon had prefetched.
  const most = LONG + (ROUNDS - 1) * DRAINED;
  for (let from = 1; from <= most; from += CHUNK)
    await fill(longDb, TARGET, from, Math.min(most, from + CHUNK - 1));
  const run = async (entry: Entry) => {
    const db = entry === long ? longDb : shortDb;
    if (db === shortDb) {
      await clear(db);
      await fill(db, TARGET, 1, DRAINED);
    }
    await settleDown(db, entry.contestant);
    return await drain(stage, db, entry, { work: 'noop', root: ROOT, count: DRAINED });
  };
  const results = await inTurn(ROUNDS, [short, long], run, tellDrained);
  printDrained(results);
  judge('short ÷ long', rateOf(results, short) / rateOf(results, long), 1.2, 'at most');
});
console.log(machine());
