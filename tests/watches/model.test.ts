/** Random transactions with daemons running: the files are what live rows hold. `npm run bench:model` plays thousands of runs. */
import { expect, it, onTestFinished } from 'vitest';
import { createDatabase } from '../support/database.ts';
import { createDisk } from '../support/disk.ts';
import { quickPlace } from '../support/memory.ts';
import { openModel } from '../support/model/model.ts';
import { KINDS, search } from '../support/model/search.ts';

it('after random transactions the files are those that live rows hold, and none was missing at any COMMIT', {
  timeout: 120_000,
}, async () => {
  const db = await createDatabase();
  const disk = createDisk(quickPlace());
  const model = await openModel(db.url, disk.path);
  onTestFinished(() => model.close());
  const seed = Date.now() % 2 ** 31;
  for (const half of [seed, seed + 1]) {
    // One daemon, then two.
    await model.startDaemon();
    const report = await search(model, { runs: 50, seed: half, shrink: 30_000 });
    expect(report, report).toBeUndefined();
  }
  expect(KINDS.filter(kind => !model.coverage.has(kind))).toEqual([]);
});
