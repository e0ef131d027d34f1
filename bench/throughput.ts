/**
 * Jobs that do nothing, drained by one process, beside other queues: `npm run bench:throughput -- [rows] [rounds] [best]`.
 * `best`: without the queues as they come, which take most of the time.
 *
 * All jobs are written before a contestant starts. Its time begins when it is told to work and ends when the last job is
 * settled. Its tables are emptied before each run, and vacuumed, analysed and on disk when it begins.
 */
import { CONTESTANTS } from './contestants/index.ts';
import { installPeers, peerVersions } from './contestants/peers.ts';
import { install, settleDown, watchLive } from './contestants/prepare.ts';
import { drain, type Entry, inTurn, judge, printDrained, rateOf, tellDrained } from './contestants/race.ts';
import { OUR_BEST, OUR_DEFAULTS, PEER_DEFAULTS, PEERS_BEST } from './contestants/settings.ts';
import { machine, onStage } from './stage.ts';

const ROWS = Number(process.argv[2] ?? 200_000);
const ROUNDS = Number(process.argv[3] ?? 5);
const BEST_ONLY = process.argv[4] === 'best';
const ROOT = 'noop://store/';

installPeers();
await onStage(async stage => {
  const { db } = stage;
  const entries = [OUR_BEST, ...PEERS_BEST, ...(BEST_ONLY ? [] : [OUR_DEFAULTS, ...PEER_DEFAULTS])];
  await install(
    db,
    entries.map(entry => entry.contestant),
  );
  await watchLive(db, `${ROOT}{id}`);
  const run = async (entry: Entry) => {
    const { clear, fill } = CONTESTANTS[entry.contestant];
    await clear(db);
    await fill(db, `'${ROOT}' || i`, 1, ROWS);
    await settleDown(db, entry.contestant);
    return await drain(stage, db, entry, { work: 'noop', root: ROOT, count: ROWS });
  };
  const results = await inTurn(ROUNDS, entries, run, tellDrained);
  printDrained(results);
  const best = (all: readonly Entry[]) => Math.max(...all.map(entry => rateOf(results, entry)));
  judge('our best ÷ the better peer', rateOf(results, OUR_BEST) / best(PEERS_BEST), 1.8, 'at least');
  if (!BEST_ONLY)
    judge('our defaults ÷ the peers’', rateOf(results, OUR_DEFAULTS) / best(PEER_DEFAULTS), 15, 'at least');
});
console.log(`${ROWS} rows; ${JSON.stringify(peerVersions())}; ${machine()}`);
