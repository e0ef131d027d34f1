/** The chaos scenario in full: `npm run bench:chaos -- [rows] [transactions]`. Exits 1 when one of its promises is not kept. */
import { playChaos } from '../tests/support/chaos.ts';

const rows = Number(process.argv[2] ?? 10_000);
/** They are written one a second. */
const transactions = Number(process.argv[3] ?? 40);

const { dead, ...report } = await playChaos({
  rows,
  transactions,
  pace: 1_000,
  daemons: 3,
  killEvery: 2_000,
  lease: '3s',
  patience: 120_000,
  log: line => console.log(line),
});
console.table({ rows, ...report, seconds: Math.round(report.seconds), dead: dead.length });
for (const message of dead.slice(0, 10)) console.log(`dead: ${message}`);
const kept =
  report.targetsLeft === 0 &&
  report.neighboursLost === 0 &&
  report.done === rows &&
  report.ids === rows &&
  report.elsewhere === 0 &&
  dead.length === 0;
console.log(kept ? 'every target gone, each row once in the audit trail, neighbours untouched' : 'NOT KEPT');
process.exitCode = kept ? 0 : 1;
