/** What people do to Heimdall's rows with psql, past the API and its 409: the files go with the rows, unless a model needs them. */
import { describe, expect, it } from 'vitest';
import { deleteDataset } from '../../examples/heimdall/service.ts';
import { nextEvent, until } from '../support/reconciler.ts';
import {
  BUCKET,
  createDataset,
  createJob,
  createModel,
  openHeimdall,
  runDaemon,
  type Scene,
  state,
} from './heimdall-setup.ts';
import { createPool, nothingWaits, stuck, waitForStuck } from './support.ts';

/** As the API's role in psql: plain SQL, with no right in the schema afterdelete. */
function psql({ db }: Scene) {
  const pool = createPool(db.urlAs('heimdall_api'));
  return async (text: string, values: unknown[] = []) => (await pool.query(text, values)).rows;
}

const DELETE = 'DELETE FROM heimdall.synthetic_datasets WHERE id = $1';
const BLOCKED = {
  state: 'pending',
  reason: 'blocked',
  last_error: "the guard 'used by an active model' says that it is in use",
  source: 'DELETE on heimdall.synthetic_datasets',
};

describe('by hand', () => {
  it('a DELETE takes the recordings along, whoever runs it', async () => {
    const scene = await openHeimdall();
    const run = psql(scene);
    const datasets = [
      await createDataset(scene),
      await createDataset(scene),
      await createDataset(scene),
    ] as const;
    for (const text of [
      'SELECT FROM afterdelete.pending_file_cleanup',
      `SELECT afterdelete.enqueue('s3://${BUCKET}/synthetic/x')`,
      "SELECT afterdelete.unguard('used by an active model')",
    ]) {
      await expect(run(text)).rejects.toMatchObject({ code: '42501' });
    }
    await runDaemon(scene);
    await run(DELETE, [datasets[0].id]);
    await run(`BEGIN; DELETE FROM heimdall.synthetic_datasets WHERE id = '${datasets[1].id}'; ROLLBACK`);
    await nothingWaits(scene.db);
    expect(scene.keys(datasets[0].prefix)).toEqual([]);
    expect(scene.keys('')).toHaveLength(datasets[1].files + datasets[2].files);
  });

  it('a data set that is made into features gives its recordings up', async () => {
    const scene = await openHeimdall();
    const dataset = await createDataset(scene);
    await runDaemon(scene);
    await psql(scene)("UPDATE heimdall.synthetic_datasets SET dataset_type = 'feature_based'");
    await nothingWaits(scene.db);
    expect(scene.keys(dataset.prefix)).toEqual([]);
  });

  it('a job that is deleted leaves its data sets, whose reference to it is set to NULL', async () => {
    const scene = await openHeimdall();
    const job = await createJob(scene);
    await createDataset(scene, { job });
    const { objects } = await state(scene);
    await psql(scene)('DELETE FROM heimdall.training_jobs');
    expect(await state(scene)).toMatchObject({
      cleanups: 0,
      objects,
      datasets: [{ created_by_job_id: null }],
    });
  });
});

describe('a data set that an active model uses', () => {
  it('keeps its recordings when its row is deleted by hand: blocked, until the model is deactivated', async () => {
    const scene = await openHeimdall();
    const run = psql(scene);
    const dataset = await createDataset(scene, { name: 'synthetic_v1' });
    const other = await createDataset(scene);
    await createModel(scene, 'localization_v2', dataset.id);
    await createModel(scene, 'localization_v1', dataset.id, false);
    // The API refuses.
    await expect(deleteDataset(scene.heimdall, dataset.id)).rejects.toMatchObject({ status: 409 });
    await runDaemon(scene);
    await run(DELETE, [dataset.id]);
    await run(DELETE, [other.id]);
    const blocked = await waitForStuck(scene.db, 2);
    expect(blocked.map(({ target }) => target).sort()).toEqual(
      [dataset.prefix, `synthetic/dataset-${dataset.id}/`].map(prefix => `s3://${BUCKET}/${prefix}`).sort(),
    );
    for (const row of blocked) expect(row).toMatchObject(BLOCKED);
    // Those of the other one are gone; these are all there.
    await until(() => scene.keys(other.prefix).length === 0, 'the recordings of the other data set gone');
    expect(scene.keys('')).toHaveLength(dataset.files);
    expect(await run('SELECT DISTINCT synthetic_dataset_id FROM heimdall.models')).toEqual([
      { synthetic_dataset_id: null },
    ]);
    await run("UPDATE heimdall.models SET is_active = false WHERE model_name = 'localization_v2'");
    await nothingWaits(scene.db);
    expect(scene.keys('')).toEqual([]);
    expect(await stuck(scene.db)).toEqual([]);
  });

  it('keeps them until the last of its models is deleted, or trained on something else', async () => {
    const scene = await openHeimdall();
    const run = psql(scene);
    const dataset = await createDataset(scene);
    const another = await createDataset(scene);
    for (const name of ['localization_v1', 'localization_v2']) await createModel(scene, name, dataset.id);
    const daemon = await runDaemon(scene);
    const blocked = nextEvent(daemon, 'cleanup_blocked');
    await run(DELETE, [dataset.id]);
    await blocked;
    await run("DELETE FROM heimdall.models WHERE model_name = 'localization_v1'");
    await waitForStuck(scene.db, 2);
    expect(scene.keys(dataset.prefix)).toHaveLength(dataset.files);
    await run('UPDATE heimdall.models SET synthetic_dataset_id = $1', [another.id]);
    await nothingWaits(scene.db);
    expect(scene.keys('')).toEqual(scene.keys(another.prefix));
    expect(scene.keys('')).toHaveLength(another.files);
  });

  it('keeps them where its model is activated after the DELETE, and before the daemon comes to it', async () => {
    const scene = await openHeimdall();
    const run = psql(scene);
    const dataset = await createDataset(scene);
    await createModel(scene, 'late', dataset.id, false);
    await run(DELETE, [dataset.id]);
    await run('UPDATE heimdall.models SET is_active = true');
    await runDaemon(scene);
    await waitForStuck(scene.db, 2);
    expect(scene.keys('')).toHaveLength(dataset.files);
    await run('UPDATE heimdall.models SET is_active = false');
    await nothingWaits(scene.db);
    expect(scene.keys('')).toEqual([]);
  });

  it('keeps single recordings, too, whoever asks for one', async () => {
    const scene = await openHeimdall();
    const dataset = await createDataset(scene);
    await createModel(scene, 'localization_v1', dataset.id);
    const daemon = await runDaemon(scene);
    const blocked = nextEvent(daemon, 'cleanup_blocked');
    const target = `s3://${BUCKET}/${dataset.prefix}sample-4/rx_2.npy`;
    await scene.db.sql('SELECT afterdelete.enqueue($1)', [target]);
    expect(await blocked).toMatchObject({ target, error: BLOCKED.last_error });
    expect(scene.keys('')).toHaveLength(dataset.files);
  });
});

describe('the declarations', () => {
  it('work for an owner who is no superuser, and can be run again', async () => {
    const scene = await openHeimdall(undefined, { ordinaryOwner: true });
    const dataset = await createDataset(scene);
    await createModel(scene, 'localization_v1', dataset.id);
    // As it was before anything was declared.
    await scene.db.sql('ALTER TABLE heimdall.models DISABLE TRIGGER remember_dataset');
    await scene.db.sql('UPDATE heimdall.models SET trained_on = NULL');
    await scene.db.sql('ALTER TABLE heimdall.models ENABLE TRIGGER remember_dataset');
    await scene.db.declare();
    await runDaemon(scene);
    await psql(scene)(DELETE, [dataset.id]);
    await waitForStuck(scene.db, 2);
    await psql(scene)('DELETE FROM heimdall.models');
    await nothingWaits(scene.db);
    expect(scene.keys('')).toEqual([]);
  });

  it('need no further index: afterdelete check has nothing to say of them', async () => {
    const scene = await openHeimdall();
    expect(await scene.db.sql('SELECT * FROM afterdelete.watch_problems()')).toEqual([]);
  });
});
