/**
 * Jobs of one file of 4 KiB each, drained by one process, beside other queues: `npm run bench:files -- [rows] [rounds]`.
 *
 * As bench:throughput does it. The files are on disk when a contestant begins, a thousand to a directory. The peers' handlers
 * unlink them, and take what is missing for gone; ours looks at what it unlinks and at its root besides.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CONTESTANTS } from './contestants/index.ts';
import { installPeers, peerVersions } from './contestants/peers.ts';
import { install, settleDown, watchLive } from './contestants/prepare.ts';
import { drain, type Entry, inTurn, judge, printDrained, rateOf, tellDrained } from './contestants/race.ts';
import { OUR_BEST, PEERS_BEST } from './contestants/settings.ts';
import { machine, onStage } from './stage.ts';

const ROWS = Number(process.argv[2] ?? 50_000);
const ROUNDS = Number(process.argv[3] ?? 5);
const IN_A_FOLDER = 1_000;
const CONTENT = Buffer.alloc(4_096, 'x');

function writeFiles(directory: string): void {
  for (let i = 1; i <= ROWS; i++) {
    const folder = join(directory, String(Math.floor(i / IN_A_FOLDER)));
    if (i === 1 || i % IN_A_FOLDER === 0) mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, String(i)), CONTENT);
  }
  execFileSync('sync');
}

function filesLeft(directory: string): number {
  const entries = readdirSync(directory, { withFileTypes: true, recursive: true });
  return entries.filter(entry => entry.isFile() && entry.name !== '.afterdelete-root').length;
}

installPeers();
await onStage(async stage => {
  const { db, directory, root } = stage;
  const entries = [OUR_BEST, ...PEERS_BEST];
  await install(
    db,
    entries.map(entry => entry.contestant),
  );
  await watchLive(db, `${root}{folder}/{id}`);
  const run = async (entry: Entry) => {
    const { clear, fill } = CONTESTANTS[entry.contestant];
    await clear(db);
    writeFiles(directory);
    await fill(db, `'${root}' || i / ${IN_A_FOLDER} || '/' || i`, 1, ROWS);
    await settleDown(db, entry.contestant);
    const drained = await drain(stage, db, entry, { work: 'files', root, count: ROWS });
    const left = filesLeft(directory);
    if (left > 0) throw new Error(`${entry.label} left ${left} files`);
    return drained;
  };
  const results = await inTurn(ROUNDS, entries, run, tellDrained);
  printDrained(results);
  const better = Math.max(...PEERS_BEST.map(entry => rateOf(results, entry)));
  judge('ours ÷ the better peer', rateOf(results, OUR_BEST) / better, 1.5, 'at least');
});
console.log(`${ROWS} files; ${JSON.stringify(peerVersions())}; ${machine()}`);
