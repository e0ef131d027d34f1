/** Heimdall's rules for jobs, and for data sets that active models use. */
import { describe, expect, it } from 'vitest';
import { deleteDataset, deleteJob } from '../../examples/heimdall/service.ts';
import { runProgram } from '../support/command.ts';
import { until } from '../support/reconciler.ts';
import {
  BUCKET,
  createDataset,
  createJob,
  createModel,
  finished,
  openHeimdall,
  REQUEST,
  runDaemon,
  type Scene,
  state,
  statistics,
} from './heimdall-setup.ts';
import { cleanups, example, nothingWaits } from './support.ts';

const UNKNOWN = '550e8400-e29b-41d4-a716-446655440000';

describe('a job', () => {
  it('leaves its data sets, unless asked otherwise: they belong to no job then', async () => {
    const scene = await openHeimdall();
    const job = await createJob(scene);
    const datasets = [await createDataset(scene, { job }), await createDataset(scene, { job })];
    const { objects, samples } = await state(scene);
    expect(await deleteJob(scene.heimdall, job)).toEqual({
      message: `Synthetic generation job ${job} deleted successfully`,
      job_id: job,
      datasets_deleted: 0,
    });
    expect(await state(scene)).toMatchObject({
      cleanups: 0,
      objects,
      samples,
      datasets: datasets.map(() => ({ created_by_job_id: null })),
      jobs: [],
    });
  });

  it('deleted with its data sets takes them all, says how many, and later how much that was', async () => {
    const scene = await openHeimdall();
    const job = await createJob(scene);
    const raw = await createDataset(scene, { name: 'a', job, samples: 50 });
    const old = await createDataset(scene, { name: 'b', job, directory: id => `dataset-${id}` });
    await createDataset(scene, { name: 'c', job, type: 'feature_based', samples: 0 });
    const others = await createDataset(scene, { name: 'd', job: await createJob(scene) });
    const deletion = await deleteJob(scene.heimdall, job, { deleteDataset: true });
    expect(deletion).toMatchObject({ job_id: job, datasets_deleted: 3 });
    expect(await statistics(scene)).toEqual({
      minio_files_deleted: 0,
      bytes_freed: 0,
      waiting: 4,
      failed: 0,
    });
    expect(scene.lines.map(({ event, dataset_name }) => [event, dataset_name])).toEqual([
      ['synthetic_dataset_deleted', 'a'],
      ['synthetic_dataset_deleted', 'b'],
      ['synthetic_dataset_deleted', 'c'],
      ['synthetic_job_deleted', undefined],
    ]);
    expect(scene.lines.at(-1)).toMatchObject({
      request_id: REQUEST,
      job_id: job,
      datasets_deleted: 3,
    });
    await runDaemon(scene);
    expect(await finished(scene)).toEqual({
      minio_files_deleted: raw.files + old.files,
      bytes_freed: raw.bytes + old.bytes,
      waiting: 0,
      failed: 0,
    });
    expect(scene.keys('')).toEqual(scene.keys(others.prefix));
    expect(scene.keys('')).toHaveLength(others.files);
  });

  it.each(['pending', 'queued', 'running'])('that is %s is cancelled first', async status => {
    const told: unknown[] = [];
    const scene: Scene = await openHeimdall(async id => {
      // The worker's last file: written before anything is deleted, so it goes too.
      scene.s3.buckets.put(BUCKET, `${dataset.prefix}sample-99/rx_0.npy`, 'iq');
      told.push({ id, cleanups: await cleanups(scene.db) });
    });
    const job = await createJob(scene, status);
    const dataset = await createDataset(scene, { job });
    await runDaemon(scene);
    await deleteJob(scene.heimdall, job, { deleteDataset: true });
    expect(told).toEqual([{ id: job, cleanups: 0 }]);
    expect(scene.lines.map(({ event }) => event)).toEqual([
      'synthetic_job_cancelled',
      'synthetic_dataset_deleted',
      'synthetic_job_deleted',
    ]);
    expect(await finished(scene)).toMatchObject({ minio_files_deleted: dataset.files + 1 });
    expect(scene.keys('')).toEqual([]);
  });

  it('that has ended has no worker to stop', async () => {
    const scene = await openHeimdall(async () => Promise.reject(new Error('there is no worker')));
    for (const status of ['completed', 'failed', 'cancelled']) {
      await deleteJob(scene.heimdall, await createJob(scene, status));
    }
    expect(await scene.db.sql('SELECT FROM heimdall.training_jobs')).toEqual([]);
  });

  it('whose worker cannot be stopped stays as it is', async () => {
    const scene = await openHeimdall(async () => Promise.reject(new Error('no answer from the worker')));
    const job = await createJob(scene, 'running');
    await createDataset(scene, { job });
    const before = await state(scene);
    await expect(deleteJob(scene.heimdall, job, { deleteDataset: true })).rejects.toThrow('no answer');
    expect(await state(scene)).toEqual(before);
  });

  it('keeps everything when the database fails at COMMIT', async () => {
    const scene = await openHeimdall();
    const job = await createJob(scene);
    const [, second] = [await createDataset(scene, { job }), await createDataset(scene, { job })];
    await scene.db.sql(
      'CREATE TABLE evaluation (dataset uuid REFERENCES heimdall.synthetic_datasets DEFERRABLE INITIALLY DEFERRED)',
    );
    await scene.db.sql('INSERT INTO evaluation VALUES ($1)', [second?.id]);
    const before = await state(scene);
    await runDaemon(scene);
    await expect(deleteJob(scene.heimdall, job, { deleteDataset: true })).rejects.toMatchObject({
      code: '23503',
    });
    // A daemon runs, and has been asked for nothing; the log does not say that it was.
    expect(await state(scene)).toEqual(before);
    expect(scene.lines).toEqual([]);
  });

  it.each([
    ['7', 400, 'job_id: expected a UUID, got "7"'],
    [UNKNOWN, 404, `Synthetic generation job not found: ${UNKNOWN}`],
  ])('%s is refused', async (id, status, detail) => {
    const { heimdall } = await openHeimdall();
    await expect(deleteJob(heimdall, id)).rejects.toMatchObject({ status, body: { detail } });
  });
});

describe('a data set that active models use', () => {
  it('is not deleted: 409 with their names', async () => {
    const scene = await openHeimdall();
    const { id } = await createDataset(scene, { name: 'synthetic_v1' });
    await createModel(scene, 'localization_v2', id);
    await createModel(scene, 'localization_v1', id, false);
    const before = await state(scene);
    await expect(deleteDataset(scene.heimdall, id)).rejects.toMatchObject({
      status: 409,
      message:
        "Cannot delete dataset 'synthetic_v1': it is currently used by 1 active model(s): localization_v2. " +
        'Please deactivate or delete these models first.',
    });
    expect(await state(scene)).toEqual(before);
    await scene.db.sql('UPDATE heimdall.models SET is_active = false');
    await deleteDataset(scene.heimdall, id);
    // The models stay; they refer to nothing, and remember what it was.
    expect(
      await scene.db.sql('SELECT DISTINCT synthetic_dataset_id, trained_on FROM heimdall.models'),
    ).toEqual([{ synthetic_dataset_id: null, trained_on: id }]);
  });

  it('is not deleted with its job either; nothing is, and the job runs on', async () => {
    let stopped = 0;
    const scene = await openHeimdall(async () => void stopped++);
    const job = await createJob(scene, 'running');
    await createDataset(scene, { name: 'another', job });
    const { id } = await createDataset(scene, { name: 'my_dataset', job });
    for (const name of ['localization_v2', 'localization_v1']) await createModel(scene, name, id);
    const before = await state(scene);
    await expect(deleteJob(scene.heimdall, job, { deleteDataset: true })).rejects.toMatchObject({
      status: 409,
      body: {
        detail:
          "Cannot delete dataset 'my_dataset': it is currently used by 2 active model(s): localization_v1, " +
          "localization_v2. Please deactivate or delete these models first, or uncheck 'delete_dataset'.",
      },
    });
    expect(await state(scene)).toEqual(before);
    expect(stopped).toBe(0);
    expect(scene.lines).toEqual([]);
    // Unchecked, the job goes.
    expect(await deleteJob(scene.heimdall, job)).toMatchObject({ datasets_deleted: 0 });
  });

  it('is not deleted where a model is just being activated: the deletion waits for that, and is refused', async () => {
    const scene = await openHeimdall();
    const { id } = await createDataset(scene);
    await createModel(scene, 'late', id, false);
    const before = await state(scene);
    const other = await scene.db.connect();
    await other.query('BEGIN');
    await other.query('UPDATE heimdall.models SET is_active = true');
    const refused = expect(deleteDataset(scene.heimdall, id)).rejects.toMatchObject({ status: 409 });
    const waiting = "SELECT FROM pg_stat_activity WHERE datname = $1 AND wait_event_type = 'Lock'";
    await until(
      async () => (await scene.db.sql(waiting, [scene.db.name])).length === 1,
      'the deletion to wait',
    );
    await other.query('COMMIT');
    await refused;
    expect(await state(scene)).toEqual(before);
  });

  it('is not deleted where a model is activated in the middle of it', async () => {
    const activate = async () => void (await scene.db.sql('UPDATE heimdall.models SET is_active = true'));
    const scene: Scene = await openHeimdall(activate);
    const job = await createJob(scene, 'running');
    const { id } = await createDataset(scene, { job });
    await createModel(scene, 'late', id, false);
    const { objects, datasets } = await state(scene);
    await expect(deleteJob(scene.heimdall, job, { deleteDataset: true })).rejects.toMatchObject({
      status: 409,
    });
    expect(await state(scene)).toMatchObject({
      cleanups: 0,
      objects,
      datasets,
      jobs: [{ status: 'cancelled' }],
    });
  });
});

describe('from the command line', () => {
  it('a job is deleted, and the statistics read', async () => {
    const scene = await openHeimdall();
    const job = await createJob(scene);
    const dataset = await createDataset(scene, { job });
    const run = async (...args: string[]) =>
      await runProgram(example('heimdall/main.ts'), args, {
        env: { DATABASE_URL: scene.db.urlAs('heimdall_api') },
      });
    const deleted = await run('delete-job', job, '--delete-dataset');
    expect(deleted.code).toBe(0);
    expect(deleted.stderr).toContain('"event":"synthetic_job_deleted"');
    expect(JSON.parse(deleted.stdout)).toMatchObject({ datasets_deleted: 1 });
    const { request_id } = JSON.parse(deleted.stderr.trim().split('\n').at(-1) ?? '');
    await runDaemon(scene);
    await nothingWaits(scene.db);
    const { stdout } = await run('statistics', request_id);
    expect(JSON.parse(stdout)).toMatchObject({ minio_files_deleted: dataset.files });
    expect(await run('delete-job', job)).toMatchObject({
      code: 1,
      stderr: `{"detail":"Synthetic generation job not found: ${job}"}\n`,
    });
  });
});
