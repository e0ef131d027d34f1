/**
 * The protocol's model of the suite, thousands of runs of it: `npm run bench:protocol -- [runs] [--seed N] [--path P]
 * [--broken NAME]`. Exits 1 when a run breaks a rule of docs/protocol.md. With `--broken all` it proves that it would: one
 * rule after the other is broken on purpose, and each must be missed.
 */
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { migrate } from '../src/outbox/migrate.ts';
import { quickPlace } from '../tests/support/memory.ts';
import { startPostgres } from '../tests/support/postgres.ts';
import { BREAKAGES, type Breakage } from '../tests/support/protocol/breakages.ts';
import { openProtocol } from '../tests/support/protocol/protocol.ts';
import { type Found, search } from '../tests/support/protocol/search.ts';
import { execute } from '../tests/support/server.ts';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { seed: { type: 'string' }, path: { type: 'string' }, broken: { type: 'string' } },
});
const { path, broken } = values;
const runs = Number(positionals[0] ?? (path !== undefined ? 1 : broken === undefined ? 2_000 : 500));
const seed = Number(values.seed ?? Date.now() % 2 ** 31);
const names = Object.keys(BREAKAGES).filter(name => broken === 'all' || broken === name);
if (!Number.isInteger(runs) || runs < 1) throw new Error(`expected a number of runs, got ${positionals[0]}`);
if (broken !== undefined && names.length === 0)
  throw new Error(`--broken: expected all, or one of ${Object.keys(BREAKAGES).join(', ')}`);

const server = await startPostgres({ directory: mkdtempSync(join(quickPlace(), 'afterdelete-pg-')) });
let databases = 0;

interface Played {
  readonly found: Found | undefined;
  readonly played: number;
  /** How often the same run failed again. */
  readonly again: number;
}

/** How often a run that missed a breakage is played again. */
const AGAIN = 5;

/** Plays so many runs in a database of their own. */
async function play(breakage?: Breakage): Promise<Played> {
  const database = `protocol_${++databases}`;
  await execute(server.url(), `CREATE DATABASE ${database} TEMPLATE migrated`);
  const protocol = await openProtocol(server.url(database), breakage);
  let played = 0;
  try {
    const began = performance.now();
    const onRun = () => {
      played += 1;
      if (played % 500 === 0)
        console.log(`${played} runs, ${Math.round((played * 1000) / (performance.now() - began))} a second`);
    };
    const shrink = breakage === undefined ? 60_000 : 0;
    const found = await search(protocol, {
      runs,
      seed,
      onRun,
      shrink,
      ...(path === undefined ? {} : { path }),
    });
    console.log(`${played} runs, ${Math.round((played * 1000) / (performance.now() - began))} a second`);
    if (breakage === undefined) console.table(Object.fromEntries([...protocol.coverage].sort()));
    const total = played;
    let again = 0;
    for (let i = 0; breakage !== undefined && found !== undefined && i < AGAIN; i++) {
      const second = await search(protocol, { runs: 1, seed, path: found.path, shrink: 0 });
      if (second?.rule === found.rule) again += 1;
    }
    return { found, played: total, again };
  } finally {
    await protocol.close();
    await execute(server.url(), `DROP DATABASE ${database} WITH (FORCE)`);
  }
}

try {
  await execute(server.url(), 'CREATE DATABASE migrated');
  await migrate(server.url('migrated'));
  if (broken === undefined) {
    console.log(`${runs} runs of seed ${seed}`);
    const { found } = await play();
    console.log(found?.report ?? 'no rule of docs/protocol.md was broken');
    process.exitCode = found === undefined ? 0 : 1;
  }
  for (const name of names) {
    const breakage = BREAKAGES[name] as Breakage;
    const { found, played, again } = await play(breakage);
    const missed = found === undefined || !breakage.breaks.includes(found.rule ?? '');
    console.log(
      `${name}: ${found === undefined ? `NOT FOUND in ${runs} runs of seed ${seed}` : `${missed ? 'ANOTHER RULE' : 'found'} after ${played} runs, and again ${again} times of ${AGAIN}. ${found.report}`}`,
    );
    if (missed) process.exitCode = 1;
  }
} finally {
  await server.destroy();
}
