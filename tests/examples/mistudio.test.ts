/** miStudio's stories: what went wrong with its trainings, checkpoints and data sets, and does no more. */
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  deleteDataset,
  deleteTraining,
  NotFoundError,
  spaceFreedBy,
} from '../../examples/mistudio/service.ts';
import {
  andWait,
  createCheckpoints,
  createDataset,
  createTraining,
  openStudio,
  runDaemon,
  trainingDirectory,
} from './mistudio-setup.ts';
import { audit, cleanups, existing, stored, write } from './support.ts';

const LAYERS = [7, 14, 18];

describe('a training', () => {
  it('goes with its checkpoints and its log, and the audit trail says what that freed', async () => {
    const scene = await openStudio();
    const directory = trainingDirectory(scene, 'train_00d10dde');
    await createTraining(scene, 'train_00d10dde', { checkpointDir: join(directory, 'checkpoints') });
    await createCheckpoints(scene, 'train_00d10dde', [1000, 2000], LAYERS);
    const before = stored(directory);
    expect(before.files).toBe(7);
    await runDaemon(scene);
    const { source } = await andWait(scene, deleteTraining(scene.studio, 'train_00d10dde'));
    expect(existsSync(directory)).toBe(false);
    expect(await spaceFreedBy(scene.studio, source)).toEqual(before);
    expect(await scene.db.sql('SELECT FROM checkpoints')).toEqual([]);
  });

  it('without checkpoint_dir, because it was deleted early, goes all the same', async () => {
    const scene = await openStudio();
    await createTraining(scene, 'train_132ef5bd');
    await runDaemon(scene);
    await andWait(scene, deleteTraining(scene.studio, 'train_132ef5bd'));
    expect(await audit(scene.db)).toEqual([
      {
        target: `${scene.roots[0]}train_132ef5bd/`,
        outcome: 'deleted',
        attempt: 1,
        objects: 1,
      },
    ]);
    expect(existsSync(trainingDirectory(scene, 'train_132ef5bd'))).toBe(false);
  });

  it('whose checkpoint_dir is somewhere else loses both directories', async () => {
    const scene = await openStudio();
    const elsewhere = trainingDirectory(scene, 'fast-disk/16091885');
    write(join(elsewhere, 'checkpoint_10/layer_7/checkpoint.safetensors'));
    await createTraining(scene, 'train_16091885', { checkpointDir: elsewhere });
    await runDaemon(scene);
    await andWait(scene, deleteTraining(scene.studio, 'train_16091885'));
    expect(existing([elsewhere, trainingDirectory(scene, 'train_16091885')])).toEqual([]);
  });

  it('whose directory is already gone is no error: absent, and nothing freed', async () => {
    const scene = await openStudio();
    await createTraining(scene, 'train_1b4d5fff');
    rmSync(trainingDirectory(scene, 'train_1b4d5fff'), { recursive: true });
    await runDaemon(scene);
    const { source } = await andWait(scene, deleteTraining(scene.studio, 'train_1b4d5fff'));
    expect(await audit(scene.db)).toMatchObject([{ outcome: 'absent', attempt: 1 }]);
    expect(await spaceFreedBy(scene.studio, source)).toEqual({ files: 0, bytes: 0 });
  });

  it('leaves its neighbours alone whose names begin with its own', async () => {
    const scene = await openStudio();
    for (const id of ['train_1', 'train_10', 'train_1a']) await createTraining(scene, id);
    write(`${trainingDirectory(scene, 'train_1')}.bak/logs.txt`);
    await runDaemon(scene);
    await andWait(scene, deleteTraining(scene.studio, 'train_1'));
    expect(readdirSync(trainingDirectory(scene, '.')).sort()).toEqual([
      '.afterdelete-root',
      'train_1.bak',
      'train_10',
      'train_1a',
      'unrelated',
    ]);
  });

  it.each([
    ['the DELETE fails', ''],
    ['the COMMIT fails', 'DEFERRABLE INITIALLY DEFERRED'],
  ])('keeps its files when %s', async (_, constraint) => {
    const scene = await openStudio();
    await createTraining(scene, 'train_21de9472');
    await createTraining(scene, 'train_2');
    await scene.db.sql(`CREATE TABLE published (training_id text REFERENCES trainings ${constraint})`);
    await scene.db.sql("INSERT INTO published VALUES ('train_21de9472')");
    await runDaemon(scene);
    await expect(deleteTraining(scene.studio, 'train_21de9472')).rejects.toMatchObject({ code: '23503' });
    expect(await cleanups(scene.db)).toBe(0);
    // The connection that rolled back is good for the next deletion, and the daemon at work: it was not asked to.
    await andWait(scene, deleteTraining(scene.studio, 'train_2'));
    expect(existsSync(join(trainingDirectory(scene, 'train_21de9472'), 'logs.txt'))).toBe(true);
    expect(await scene.db.sql('SELECT id FROM trainings')).toEqual([{ id: 'train_21de9472' }]);
  });

  it('that does not exist is an error that says so, and nothing is enqueued', async () => {
    const scene = await openStudio();
    await expect(deleteTraining(scene.studio, 'train_nope')).rejects.toThrow(
      new NotFoundError('Training not found: train_nope'),
    );
    await expect(deleteTraining(scene.studio, '../datasets')).rejects.toThrow(NotFoundError);
    expect(await cleanups(scene.db)).toBe(0);
  });
});

describe('a data set', () => {
  it('goes with its raw and its tokenized files', async () => {
    const scene = await openStudio();
    const [raw, tokenized] = ['raw/squad/', 'tokenized/squad.arrow'].map(name =>
      join(scene.studio.data, 'datasets', name),
    ) as [string, string];
    for (const path of [join(raw, 'train.json'), join(raw, 'dev/dev.json'), tokenized]) write(path);
    write(`${tokenized}.lock`);
    const bytes = stored(raw).bytes + stored(tokenized).bytes;
    const id = await createDataset(scene, { raw, tokenized });
    await runDaemon(scene);
    const { source } = await andWait(scene, deleteDataset(scene.studio, id));
    expect(existing([raw, tokenized, `${tokenized}.lock`])).toEqual([`${tokenized}.lock`]);
    expect(await spaceFreedBy(scene.studio, source)).toEqual({ files: 3, bytes });
  });

  it('that was never tokenized has one path only, and one that failed to download has none', async () => {
    const scene = await openStudio();
    const raw = join(scene.studio.data, 'datasets/raw/wiki/');
    write(join(raw, 'part-0'));
    const ids = [await createDataset(scene, { raw }), await createDataset(scene, {})];
    await runDaemon(scene);
    for (const id of ids) await andWait(scene, deleteDataset(scene.studio, id));
    expect(await audit(scene.db)).toMatchObject([{ target: `file://${raw}`, outcome: 'deleted' }]);
    expect(await cleanups(scene.db)).toBe(1);
  });
});
