/** miStudio's stories: what went wrong with its trainings, checkpoints and data sets, and does no more. */
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { deleteDataset, deleteTraining, NotFoundError, spaceFreed } from '../../examples/mistudio/service.ts';
import {
  ACTOR,
  andWait,
  createCheckpoints,
  createDataset,
  createTraining,
  openStudio,
  runDaemon,
  trainingDirectory,
} from './mistudio-setup.ts';
import { audit, cleanups, existing, stored, stuck, waitForStuck, write } from './support.ts';

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
    await andWait(scene, deleteTraining(scene.studio, 'train_00d10dde'));
    expect(existsSync(directory)).toBe(false);
    // Each file once, although three cleanups contain it: its own, that of checkpoint_dir, that of the training.
    expect(await spaceFreed(scene.studio)).toEqual(before);
    expect(await scene.db.sql('SELECT FROM checkpoints')).toEqual([]);
    expect(
      await scene.db.sql('SELECT DISTINCT source, actor FROM afterdelete.done_file_cleanup ORDER BY source'),
    ).toEqual([
      { source: 'DELETE on public.checkpoints', actor: ACTOR },
      { source: 'DELETE on public.trainings', actor: ACTOR },
    ]);
    expect(await stuck(scene.db)).toEqual([]);
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

  it.each([
    ['with', '/'],
    ['without', ''],
  ])(
    'whose checkpoint_dir is somewhere else, %s a slash at the end, loses both directories',
    async (_, slash) => {
      const scene = await openStudio();
      const elsewhere = trainingDirectory(scene, 'fast-disk/16091885');
      write(join(elsewhere, 'checkpoint_10/layer_7/checkpoint.safetensors'));
      await createTraining(scene, 'train_16091885', { checkpointDir: `${elsewhere}${slash}` });
      await runDaemon(scene);
      await andWait(scene, deleteTraining(scene.studio, 'train_16091885'));
      expect(existing([elsewhere, trainingDirectory(scene, 'train_16091885')])).toEqual([]);
      expect(await audit(scene.db)).toMatchObject([
        { target: `file://${elsewhere}/`, outcome: 'deleted' },
        { target: `${scene.roots[0]}train_16091885/`, outcome: 'deleted' },
      ]);
    },
  );

  it('whose directory is already gone is no error: absent, and nothing freed', async () => {
    const scene = await openStudio();
    await createTraining(scene, 'train_1b4d5fff');
    rmSync(trainingDirectory(scene, 'train_1b4d5fff'), { recursive: true });
    await runDaemon(scene);
    await andWait(scene, deleteTraining(scene.studio, 'train_1b4d5fff'));
    expect(await audit(scene.db)).toMatchObject([{ outcome: 'absent', attempt: 1 }]);
    expect(await spaceFreed(scene.studio)).toEqual({ files: 0, bytes: 0 });
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

  it('whose directory another one writes its checkpoints to waits until that is gone, and says for whom', async () => {
    const scene = await openStudio();
    const shared = join(trainingDirectory(scene, 'train_4a'), 'continued');
    await createTraining(scene, 'train_4a');
    await createTraining(scene, 'train_4b', { checkpointDir: shared });
    write(join(shared, 'checkpoint_1/checkpoint.safetensors'));
    await runDaemon(scene);
    await deleteTraining(scene.studio, 'train_4a');
    expect(await waitForStuck(scene.db, 1)).toMatchObject([
      {
        reason: 'blocked',
        target: `${scene.roots[0]}train_4a/`,
        last_error: `public.trainings {"id": "train_4b"} holds file://${shared}/ below it`,
      },
    ]);
    expect(stored(trainingDirectory(scene, 'train_4a')).files).toBe(2);
    await andWait(scene, deleteTraining(scene.studio, 'train_4b'));
    expect(readdirSync(trainingDirectory(scene, '.')).sort()).toEqual(['.afterdelete-root', 'unrelated']);
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

  it('that does not exist is an error that says so, and nothing is written', async () => {
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
      join(scene.data, 'datasets', name),
    ) as [string, string];
    for (const path of [join(raw, 'train.json'), join(raw, 'dev/dev.json'), tokenized]) write(path);
    write(`${tokenized}.lock`);
    const bytes = stored(raw).bytes + stored(tokenized).bytes;
    const id = await createDataset(scene, { raw, tokenized });
    await runDaemon(scene);
    await andWait(scene, deleteDataset(scene.studio, id));
    expect(existing([raw, tokenized, `${tokenized}.lock`])).toEqual([`${tokenized}.lock`]);
    expect(await spaceFreed(scene.studio)).toEqual({ files: 3, bytes });
  });

  it('that was never tokenized has one path only, and one that failed to download has none', async () => {
    const scene = await openStudio();
    const raw = join(scene.data, 'datasets/raw/wiki/');
    write(join(raw, 'part-0'));
    const ids = [await createDataset(scene, { raw }), await createDataset(scene, {})];
    await runDaemon(scene);
    for (const id of ids) await andWait(scene, deleteDataset(scene.studio, id));
    expect(await audit(scene.db)).toMatchObject([{ target: `file://${raw}`, outcome: 'deleted' }]);
    expect(await cleanups(scene.db)).toBe(1);
  });

  it('that shares its raw files with another leaves them to it; they go with the last', async () => {
    const scene = await openStudio();
    const at = (name: string) => join(scene.data, 'datasets', name);
    const raw = at('raw/squad/');
    for (const path of [join(raw, 'train.json'), at('gpt2.arrow'), at('llama.arrow')]) write(path);
    const ids = [
      await createDataset(scene, { raw, tokenized: at('gpt2.arrow') }),
      await createDataset(scene, { raw, tokenized: at('llama.arrow') }),
    ] as const;
    await runDaemon(scene);
    await andWait(scene, deleteDataset(scene.studio, ids[0]));
    expect(existing([raw, at('gpt2.arrow'), at('llama.arrow')])).toEqual([raw, at('llama.arrow')]);
    expect(await audit(scene.db)).toMatchObject([
      { target: `file://${at('gpt2.arrow')}`, outcome: 'deleted' },
      { target: `file://${raw}`, outcome: 'kept', objects: 0 },
    ]);
    await andWait(scene, deleteDataset(scene.studio, ids[1]));
    expect(existing([raw, at('llama.arrow')])).toEqual([]);
  });
});
