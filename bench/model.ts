/**
 * The model of the suite, thousands of runs of it: `npm run bench:model -- [runs] [--seed N] [--path P] [--broken NAME]`. Exits
 * 1 when a run leaves files and rows at odds. With `--broken all` it proves that it would: one part after the other is switched
 * off, and each must be missed.
 */
import { mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { migrate } from '../src/outbox/migrate.ts';
import { quickPlace } from '../tests/support/memory.ts';
import { openModel } from '../tests/support/model/model.ts';
import { search } from '../tests/support/model/search.ts';
import { startPostgres } from '../tests/support/postgres.ts';

const withoutTriggers = (event: string) => `
  DO $$ DECLARE t record; BEGIN
    FOR t IN SELECT g.tgrelid::regclass AS relation, g.tgname AS name FROM pg_trigger g WHERE g.tgname ~ '^afterdelete_[0-9]+_${event}$' AND g.tgparentid = 0 LOOP
      EXECUTE format('ALTER TABLE %s DISABLE TRIGGER %I', t.relation, t.name);
    END LOOP; END $$`;

const answering = (query: string) => `
  ALTER FUNCTION afterdelete.verdicts(text[], bigint) RENAME TO true_verdicts;
  CREATE FUNCTION afterdelete.verdicts(targets text[], claim bigint, OUT n integer, OUT verdict text, OUT reason text) RETURNS SETOF record LANGUAGE sql
  AS $$ SELECT * FROM afterdelete.true_verdicts(targets, claim) v ${query} $$`;

/** What can be switched off, by a statement. */
const BREAKAGES: Readonly<Record<string, string>> = {
  'no capture of UPDATE': withoutTriggers('update'),
  'no capture of DELETE': withoutTriggers('delete'),
  'no capture of TRUNCATE': withoutTriggers('truncate'),
  'no capture in a partition attached later': 'ALTER TABLE part_2 DISABLE TRIGGER USER',
  'a guard that lets everything go': answering('WHERE false'),
  'a guard that does not look below trees': answering("WHERE v.verdict = 'kept'"),
  'a guard that blocks what it should keep': answering("WHERE v.verdict = 'blocked'"),
  'a confirm that never raises':
    'CREATE OR REPLACE FUNCTION afterdelete.confirm(id bigint) RETURNS void LANGUAGE sql AS $$ SELECT afterdelete.end_pending(id, NULL) $$',
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { seed: { type: 'string' }, path: { type: 'string' }, broken: { type: 'string' } },
});
const { path, broken } = values;
const runs = Number(positionals[0] ?? (broken === undefined ? 2_000 : 100));
const seed = Number(values.seed ?? Date.now() % 2 ** 31);

/** Plays so many runs on a server of their own: the first half with one daemon, the second with two. */
async function play(breakage?: string): Promise<string | undefined> {
  const directory = realpathSync(mkdtempSync(join(quickPlace(), 'afterdelete-model-')));
  const server = await startPostgres({ directory: mkdtempSync(join(quickPlace(), 'afterdelete-pg-')) });
  try {
    await migrate(server.url());
    const model = await openModel(server.url(), directory);
    try {
      if (breakage !== undefined) await model.alter(breakage);
      await model.startDaemon();
      const began = performance.now();
      let played = 0;
      const onRun = async () => {
        played += 1;
        if (played === Math.ceil(runs / 2)) await model.startDaemon();
        if (played % 500 === 0)
          console.log(`${played} runs, ${Math.round((performance.now() - began) / played)} ms each`);
      };
      const report = await search(model, {
        runs,
        seed,
        onRun,
        shrink: breakage === undefined ? 60_000 : 0,
        ...(path === undefined ? {} : { path }),
      });
      if (breakage === undefined) console.table(Object.fromEntries([...model.coverage].sort()));
      return report;
    } finally {
      await model.close();
    }
  } finally {
    await server.destroy();
    rmSync(directory, { recursive: true, force: true });
  }
}

if (broken === undefined) {
  console.log(`${runs} runs of seed ${seed}`);
  const report = await play();
  console.log(
    report ?? 'after every run the files were those that live rows hold, and none was missing at any COMMIT',
  );
  process.exitCode = report === undefined ? 0 : 1;
} else {
  const names = Object.keys(BREAKAGES).filter(name => broken === 'all' || broken === name);
  if (names.length === 0)
    throw new Error(`--broken: expected all, or one of ${Object.keys(BREAKAGES).join(', ')}`);
  for (const name of names) {
    const report = await play(BREAKAGES[name]);
    console.log(
      `${name}: ${report === undefined ? `NOT FOUND in ${runs} runs of seed ${seed}` : `found. ${report}`}`,
    );
    if (report === undefined) process.exitCode = 1;
  }
}
