/** miStudio's stories of checkpoints: 248 were deleted, and 248 empty directories stayed. */
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  deleteCheckpoint,
  deleteTraining,
  keepNewestCheckpoints,
  spaceFreed,
} from '../../examples/mistudio/service.ts';
import { runProgram } from '../support/command.ts';
import { until } from '../support/reconciler.ts';
import {
  andWait,
  checkpointPath,
  createCheckpoints,
  createSingleCheckpoint,
  createTraining,
  openStudio,
  runDaemon,
  trainingDirectory,
} from './mistudio-setup.ts';
import { audit, cleanups, example, existing, nothingWaits, stored, waitForStuck } from './support.ts';

const LAYERS = [7, 14, 18];

describe('a checkpoint', () => {
  it('goes while its training lives, with the directory of its layer; with the last layer, that of the step', async () => {
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
    expect((await audit(scene.db)).map(({ outcome }) => outcome)).toEqual(['deleted', 'deleted', 'deleted']);
  });

  it('of a single layer takes the directory of its step, and not checkpoint_dir above, empty as it is', async () => {
    const scene = await openStudio();
    const checkpoints = join(trainingDirectory(scene, 'train_36766f85'), 'checkpoints');
    await createTraining(scene, 'train_36766f85', { checkpointDir: checkpoints });
    const path = join(checkpoints, 'checkpoint_5/checkpoint.safetensors');
    const id = await createSingleCheckpoint(scene, 'train_36766f85', path);
    await runDaemon(scene);
    await andWait(scene, deleteCheckpoint(scene.studio, id));
    expect(readdirSync(checkpoints)).toEqual([]);
  });

  it('that lay alone in its training’s directory leaves it, empty: the training holds it', async () => {
    const scene = await openStudio();
    await createTraining(scene, 'train_36766f85');
    const directory = trainingDirectory(scene, 'train_36766f85');
    const path = join(directory, 'checkpoint.safetensors');
    const id = await createSingleCheckpoint(scene, 'train_36766f85', path);
    rmSync(join(directory, 'logs.txt'));
    await runDaemon(scene);
    await andWait(scene, deleteCheckpoint(scene.studio, id));
    expect(readdirSync(directory)).toEqual([]);
  });

  it('whose file is still to be written keeps the directory of its step from being pruned', async () => {
    const scene = await openStudio();
    await createTraining(scene, 'train_36766f85');
    const [first = ''] = await createCheckpoints(scene, 'train_36766f85', [1], [7, 14]);
    // Layer 14 has its row, and no directory yet.
    rmSync(dirname(checkpointPath(scene, 'train_36766f85', 1, 14)), { recursive: true });
    await runDaemon(scene);
    await andWait(scene, deleteCheckpoint(scene.studio, first));
    const step = join(checkpointPath(scene, 'train_36766f85', 1, 7), '../..');
    expect(readdirSync(step)).toEqual([]);
  });

  // There was an option to delete the row alone. A file that no row holds is an orphan: let a row hold it.
  it('outlives its training where another one has taken it over: its row moves, and its file stays', async () => {
    const scene = await openStudio();
    for (const id of ['train_36766f85', 'train_38f89250']) await createTraining(scene, id);
    const [adopted = ''] = await createCheckpoints(scene, 'train_36766f85', [1000], LAYERS);
    const path = checkpointPath(scene, 'train_36766f85', 1000, 7);
    await scene.studio.pool.query("UPDATE checkpoints SET training_id = 'train_38f89250' WHERE id = $1", [
      adopted,
    ]);
    expect(await cleanups(scene.db)).toBe(0);
    await runDaemon(scene);
    await deleteTraining(scene.studio, 'train_36766f85');
    await until(async () => (await audit(scene.db)).length === 2, 'the other two checkpoints gone');
    expect(await waitForStuck(scene.db, 1)).toMatchObject([
      {
        reason: 'blocked',
        target: `${scene.roots[0]}train_36766f85/`,
        last_error: `public.checkpoints {"id": "${adopted}"} holds file://${path} below it`,
      },
    ]);
    expect(existsSync(path)).toBe(true);
    await andWait(scene, deleteTraining(scene.studio, 'train_38f89250'));
    expect(existing(['train_36766f85', 'train_38f89250'].map(id => trainingDirectory(scene, id)))).toEqual(
      [],
    );
  });
});

describe('keeping the newest checkpoints', () => {
  const steps = Array.from({ length: 249 }, (_, n) => (n + 1) * 2000);

  it('deletes 248 of 249 steps with their directories, and leaves exactly checkpoint_498000', async () => {
    const scene = await openStudio();
    const checkpoints = join(trainingDirectory(scene, 'train_36766f85'), 'checkpoints');
    await createTraining(scene, 'train_36766f85', { checkpointDir: checkpoints });
    await createCheckpoints(scene, 'train_36766f85', steps, LAYERS);
    const before = stored(checkpoints);
    await runDaemon(scene);
    expect(await andWait(scene, keepNewestCheckpoints(scene.studio, 'train_36766f85', 1))).toBe(248 * 3);
    expect(readdirSync(checkpoints)).toEqual(['checkpoint_498000']);
    const kept = stored(checkpoints);
    expect(kept.files).toBe(3);
    expect(await spaceFreed(scene.studio)).toEqual({ files: 248 * 3, bytes: before.bytes - kept.bytes });
  });

  it('as a script: as many as asked for, by step and not by row', async () => {
    const scene = await openStudio();
    await createTraining(scene, 'train_36766f85');
    await createCheckpoints(scene, 'train_36766f85', [9, 10, 100], LAYERS);
    const env = { DATABASE_URL: scene.db.urlAs('mistudio_service') };
    const outcome = await runProgram(
      example('mistudio/main.ts'),
      ['cleanup-checkpoints', 'train_36766f85', '--keep', '2'],
      { env },
    );
    const actor = 'cleanup-checkpoints train_36766f85 --keep 2';
    expect(outcome).toEqual({ code: 0, stdout: `${actor}: 3 deleted\n`, stderr: '' });
    await runDaemon(scene);
    await nothingWaits(scene.db);
    expect(readdirSync(join(trainingDirectory(scene, 'train_36766f85'), 'checkpoints')).sort()).toEqual([
      'checkpoint_10',
      'checkpoint_100',
    ]);
    expect(await spaceFreed({ ...scene.studio, actor })).toMatchObject({ files: 3 });
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
