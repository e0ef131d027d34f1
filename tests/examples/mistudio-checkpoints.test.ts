/** miStudio's stories of checkpoints: 248 were deleted, and 248 empty directories stayed. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { deleteCheckpoint, keepNewestCheckpoints, spaceFreedBy } from '../../examples/mistudio/service.ts';
import { runProgram } from '../support/command.ts';
import { until } from '../support/reconciler.ts';
import {
  andWait,
  checkpointPath,
  createCheckpoints,
  createTraining,
  openStudio,
  runDaemon,
  trainingDirectory,
} from './mistudio-setup.ts';
import { audit, cleanups, example, stored, write } from './support.ts';

const LAYERS = [7, 14, 18];

describe('a checkpoint', () => {
  it('goes with the directory of its layer; with the last layer, that of the step goes too', async () => {
    const scene = await openStudio();
    await createTraining(scene, 'train_36766f85');
    const [first = '', ...others] = await createCheckpoints(scene, 'train_36766f85', [498000], LAYERS);
    const step = join(checkpointPath(scene, 'train_36766f85', 498000, 7), '../..');
    await runDaemon(scene);
    await andWait(scene, deleteCheckpoint(scene.studio, first));
    expect(readdirSync(step).sort()).toEqual(['layer_14', 'layer_18']);
    for (const id of others) await andWait(scene, deleteCheckpoint(scene.studio, id));
    expect(existsSync(step)).toBe(false);
    expect(existsSync(join(step, '..'))).toBe(true);
  });

  it('of a single layer takes the directory of its step, and never the one above', async () => {
    const scene = await openStudio();
    await createTraining(scene, 'train_36766f85');
    const path = join(
      trainingDirectory(scene, 'train_36766f85'),
      'checkpoints/checkpoint_5/checkpoint.safetensors',
    );
    write(path);
    const [row] = await scene.db.sql<{ id: string }>(
      'INSERT INTO checkpoints (training_id, step, storage_path) VALUES ($1, 5, $2) RETURNING id',
      ['train_36766f85', path],
    );
    await runDaemon(scene);
    await andWait(scene, deleteCheckpoint(scene.studio, row?.id ?? ''));
    expect(readdirSync(join(path, '../..'))).toEqual([]);
  });

  it('can be deleted without its file', async () => {
    const scene = await openStudio();
    await createTraining(scene, 'train_36766f85');
    const [id = ''] = await createCheckpoints(scene, 'train_36766f85', [1], [7]);
    expect(await deleteCheckpoint(scene.studio, id, { deleteFile: false })).toMatchObject({
      deleted: 1,
      targets: [],
    });
    expect(await cleanups(scene.db)).toBe(0);
  });
});

describe('keeping the newest checkpoints', () => {
  const steps = Array.from({ length: 249 }, (_, n) => (n + 1) * 2000);

  it('deletes 248 of 249 steps with their directories, and leaves exactly checkpoint_498000', async () => {
    const scene = await openStudio();
    await createTraining(scene, 'train_36766f85');
    await createCheckpoints(scene, 'train_36766f85', steps, LAYERS);
    const checkpoints = join(trainingDirectory(scene, 'train_36766f85'), 'checkpoints');
    const before = stored(checkpoints);
    await runDaemon(scene);
    const { deleted, source } = await andWait(
      scene,
      keepNewestCheckpoints(scene.studio, 'train_36766f85', 1),
    );
    expect(deleted).toBe(248 * 3);
    expect(readdirSync(checkpoints)).toEqual(['checkpoint_498000']);
    const kept = stored(checkpoints);
    expect(kept.files).toBe(3);
    expect(await spaceFreedBy(scene.studio, source)).toEqual({
      files: 248 * 3,
      bytes: before.bytes - kept.bytes,
    });
  });

  it('as a script: as many as asked for, by step and not by row', async () => {
    const scene = await openStudio();
    await createTraining(scene, 'train_36766f85');
    await createCheckpoints(scene, 'train_36766f85', [9, 10, 100], LAYERS);
    const env = { DATABASE_URL: scene.db.url, MISTUDIO_DATA: scene.studio.data };
    const outcome = await runProgram(
      example('mistudio/main.ts'),
      ['cleanup-checkpoints', 'train_36766f85', '--keep', '2'],
      { env },
    );
    expect(outcome).toEqual({
      code: 0,
      stdout:
        'checkpoints of train_36766f85 cleaned up, newest 2 kept: 3 records deleted, 3 cleanups enqueued\n',
      stderr: '',
    });
    await runDaemon(scene);
    await until(async () => (await audit(scene.db)).length === 3, `three cleanups done`);
    expect(readdirSync(join(trainingDirectory(scene, 'train_36766f85'), 'checkpoints')).sort()).toEqual([
      'checkpoint_10',
      'checkpoint_100',
    ]);
  });

  it.each([0, -1, 1.5, Number.NaN])('keeps at least one: %s is refused', async keep => {
    const scene = await openStudio();
    await createTraining(scene, 'train_36766f85');
    await createCheckpoints(scene, 'train_36766f85', [1], [7]);
    await expect(keepNewestCheckpoints(scene.studio, 'train_36766f85', keep)).rejects.toThrow(
      `keep: expected a whole number from 1, got ${keep}`,
    );
    expect(await scene.db.sql('SELECT FROM checkpoints')).toHaveLength(1);
  });
});
