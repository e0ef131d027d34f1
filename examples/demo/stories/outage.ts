/** Seed: 39 data sets were left behind by background tasks that failed once and were never retried. */
import { once } from 'node:events';
import { connect } from 'node:net';
import { join } from 'node:path';
import { until } from '../listener.ts';
import { count } from '../narrate.ts';
import { exists, storeDataset, writeTraining } from '../props.ts';
import { SYNTHETIC } from '../stage.ts';
import { enqueued, type Story } from '../story.ts';

const IDS = [1, 2, 3].map(n => `7c3f9e42-1234-4678-90ab-cdef1234567${n}`);
const STORE = `s3://${SYNTHETIC}`;

interface StuckRow {
  readonly id: string;
  readonly state: string;
  readonly reason: string;
  readonly attempt: number;
  readonly last_error: string;
}

export const outage: Story = {
  title: 'S3 is down for a while, and comes back',
  async tell(stage, narrator) {
    const { buckets } = stage.s3;
    const prefixes = IDS.map(id => `synthetic/${id}/`);
    const before = prefixes.map(prefix => storeDataset(buckets, SYNTHETIC, prefix, 10));
    await stage.rows(
      `INSERT INTO synthetic_datasets (id, name)
       SELECT id, 'winter-' || n FROM unnest($1::uuid[]) WITH ORDINALITY AS d (id, n)`,
      [IDS],
    );
    const scratch = join(stage.trainings, 'train_scratch');
    await writeTraining(scratch, { steps: [1000], layers: [7] });

    await stage.s3.stop();
    narrator.check(
      'The S3 server has been stopped: its port refuses connections.',
      await connectTo(stage.s3.port),
      'ECONNREFUSED',
    );
    narrator.say('A service deletes three data sets all the same. It need not know:');
    const ids = await enqueued(
      stage,
      narrator,
      `WITH gone AS (
  DELETE FROM synthetic_datasets WHERE name LIKE 'winter-%' RETURNING id
)
INSERT INTO afterdelete.pending_file_cleanup (target, source)
SELECT '${STORE}/synthetic/' || id || '/', 'data set deleted' FROM gone
RETURNING id;`,
    );
    narrator.check('Its transaction is committed, with three cleanups.', ids.length, 3);

    const { store } = await stage.paused(STORE);
    narrator.check(`The daemon has noticed, and pauses ${STORE}.`, store, STORE);
    narrator.say('Whoever looks is told:');
    const query = 'SELECT id, state, reason, attempt, last_error FROM afterdelete.stuck ORDER BY id';
    narrator.sql(`${query};`);
    const rows = await until(
      () => stage.rows<StuckRow>(query),
      answer => answer.length === 3 && answer.every(row => row.reason === 'paused'),
      'three rows, each paused',
    );
    const [first] = rows;
    narrator.record({ ...first });
    narrator.check(
      'All three wait, and no attempt is counted against any of them: it is not their fault.',
      rows.map(({ id, state, attempt }) => ({ id, state, attempt })),
      ids.map(id => ({ id, state: 'pending', attempt: 0 })).sort((a, b) => Number(a.id) - Number(b.id)),
    );
    const [other] = await stage.run(`SELECT afterdelete.enqueue('file://${scratch}/') AS id`);
    await stage.done(String(other?.id));
    await stage.audit(String(other?.id));
    narrator.check(
      'Meanwhile files are deleted as ever: one store that is down holds up no other.',
      exists(scratch),
      false,
    );

    await stage.s3.start();
    narrator.say('The S3 server is started again. Nobody tells the daemon, nobody retries anything:');
    for (const id of ids) await stage.done(id);
    await stage.resumed(STORE);
    const audits: unknown[] = [];
    for (const id of ids) audits.push(await stage.audit(id));
    narrator.check(
      `All three are done, at their first attempt: ${count(before.reduce((sum, { objects }) => sum + objects, 0))} objects.`,
      audits,
      before.map(sum => ({ outcome: 'deleted', attempt: 1, ...sum })),
    );
    narrator.check(
      'None of their objects is left.',
      prefixes.map(prefix => buckets.count(SYNTHETIC, prefix)),
      [0, 0, 0],
    );
    narrator.check('And nothing is stuck.', await stage.rows('SELECT FROM afterdelete.stuck'), []);
  },
};

/** What becomes of a connection to a port of this machine: `connected`, or the system's error code. */
async function connectTo(port: number): Promise<string> {
  const socket = connect(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    return 'connected';
  } catch (error) {
    return error instanceof Error && 'code' in error ? String(error.code) : String(error);
  } finally {
    socket.destroy();
  }
}
