/**
 * What dead rows cost that vacuum may not remove: `npm run bench:dead -- [rows] [dead] [rounds]`.
 *
 * Before a contestant begins, a reader takes a snapshot and keeps it to the end; then so many jobs are written and deleted
 * again, and behind them those that are to be drained. Each contestant also drains the same without dead rows and reader.
 */
import { CONTESTANTS } from './contestants/index.ts';
import { installPeers, peerVersions } from './contestants/peers.ts';
import { install, settleDown, watchLive } from './contestants/prepare.ts';
import { drain, type Entry, inTurn, judge, printDrained, rateOf, tellDrained } from './contestants/race.ts';
import { BOSS_BEST, GRAPHILE_BEST, OUR_DEFAULTS } from './contestants/settings.ts';
import { machine, onStage } from './stage.ts';

const ROWS = Number(process.argv[2] ?? 200_000);
const DEAD = Number(process.argv[3] ?? 1_000_000);
const ROUNDS = Number(process.argv[4] ?? 5);
const ROOT = 'noop://store/';
const TARGET = `'${ROOT}' || i`;
/** What a contestant gets at most, in seconds. */
const LIMIT = 120;

const contestants: readonly Entry[] = [OUR_DEFAULTS, GRAPHILE_BEST, BOSS_BEST];
const clean = contestants.map((entry): Entry => ({ ...entry, label: `${entry.label}: clean`, limit: LIMIT }));
const dead = contestants.map(
  (entry): Entry => ({ ...entry, label: `${entry.label}: ${DEAD} dead`, limit: LIMIT }),
);

installPeers();
await onStage(async stage => {
  const { db } = stage;
  await install(
    db,
    contestants.map(entry => entry.contestant),
  );
  await watchLive(db, `${ROOT}{id}`);
  const reader = await db.connect();
  const run = async (entry: Entry) => {
    const { clear, fill, table } = CONTESTANTS[entry.contestant];
    await clear(db);
    if (dead.includes(entry)) {
      await reader.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
      await reader.query('SELECT pg_current_snapshot()');
      await fill(db, TARGET, 1, DEAD);
      await db.sql(`DELETE FROM ${table}`);
    }
    await fill(db, TARGET, DEAD + 1, DEAD + ROWS);
    await settleDown(db, entry.contestant);
    try {
      return await drain(stage, db, entry, { work: 'noop', root: ROOT, count: ROWS });
    } finally {
      await reader.query('ROLLBACK');
    }
  };
  const pairs = contestants.flatMap((_, i) => [clean[i], dead[i]]).filter(entry => entry !== undefined);
  const results = await inTurn(ROUNDS, pairs, run, tellDrained);
  printDrained(results);
  const slower = contestants.map((_, i) => {
    const [without, beside] = [clean[i], dead[i]].map(entry => (entry ? rateOf(results, entry) : 0));
    return (without ?? 0) / (beside ?? 0);
  });
  judge('ours: clean ÷ beside dead rows', slower[0] ?? 0, 1.5, 'at most');
  for (const [i, { label }] of contestants.entries())
    if (i > 0) console.log(`${label}: clean ÷ beside dead rows: ${slower[i]?.toFixed(2)}`);
});
console.log(`${ROWS} rows; ${JSON.stringify(peerVersions())}; ${machine()}`);
