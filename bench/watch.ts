/**
 * What a watch costs: `npm run bench:watch -- [bulk] [single] [writers] [guard]`; without names, all of them. Contestants in
 * turn on a PostgreSQL of their own with fsync on; ratios of medians, then the medians.
 */
import { machine, onStage } from './stage.ts';
import { bulk } from './watch/bulk.ts';
import { guard } from './watch/guard.ts';
import { single } from './watch/single.ts';
import { writers } from './watch/writers.ts';

const PARTS = { bulk, single, writers, guard };
const asked = process.argv.slice(2);
const unknown = asked.filter(name => !Object.hasOwn(PARTS, name));
if (unknown.length > 0)
  throw new Error(`expected some of ${Object.keys(PARTS).join(', ')}, got ${unknown.join(', ')}`);

for (const [name, play] of Object.entries(PARTS)) {
  if (asked.length === 0 || asked.includes(name)) await onStage(({ db }) => play(db));
}
console.log(machine());
