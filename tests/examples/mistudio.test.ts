/** miStudio's stories: what went wrong with its trainings, checkpoints and data sets, and does no more. */
import { existsSync, readdirSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  deleteCheckpoint,
  deleteDataset,
  deleteTraining,
  keepNewestCheckpoints,
  NotFoundError,
  spaceFreedBy,
} from '../../examples/mistudio/service.ts';
import { createFileHandler, type Handler, NOTHING } from '../../src/index.ts';
import { runProgram } from '../support/command.ts';
import { startDaemon } from '../support/daemon.ts';
import { countEvents, nextEvent, until } from '../support/reconciler.ts';
import {
  checkpointPath,
  createCheckpoints,
  createDataset,
  createTraining,
  openStudio,
  runDaemon,
  type Scene,
  trainingDirectory,
} from './mistudio-setup.ts';
import { audit, cleanups, example, existing, stored, write } from './support.ts';

const LAYERS = [7, 14, 18];

/** Deletes something and waits until the daemon has done all that it was asked for. */
async function andWait<T extends { targets: readonly string[] }>(
  daemon: Awaited<ReturnType<typeof runDaemon>>,
  scene: Scene,
  deletion: Promise<T>,
): Promise<T> {
  const result = await deletion;
  await until(
    async () =>
      (await audit(scene.db)).filter(row => result.targets.includes(row.target)).length ===
      result.targets.length,
    `${result.targets.length} cleanups done (${daemon.inHand} in hand)`,
  );
  return result;
}

describe('a training', () => {
  it('goes with its checkpoints and its log, and the audit trail says what that freed', async () => {
    const scene = await openStudio();
    const directory = trainingDirectory(scene, 'train_00d10dde');
    await createTraining(scene, 'train_00d10dde', { checkpointDir: join(directory, 'checkpoints') });
    await createCheckpoints(scene, 'train_00d10dde', [1000, 2000], LAYERS);
    const before = stored(directory);
    expect(before.files).toBe(7);
    const daemon = await runDaemon(scene);
    const { source } = await andWait(daemon, scene, deleteTraining(scene.studio, 'train_00d10dde'));
    expect(existsSync(directory)).toBe(false);
    expect(await spaceFreedBy(scene.studio, source)).toEqual(before);
    expect(await scene.db.sql('SELECT FROM checkpoints')).toEqual([]);
  });

  it('without checkpoint_dir, because it was deleted early, goes all the same', async () => {
    const scene = await openStudio();
    await createTraining(scene, 'train_132ef5bd');
    const daemon = await runDaemon(scene);
    await andWait(daemon, scene, deleteTraining(scene.studio, 'train_132ef5bd'));
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
    const daemon = await runDaemon(scene);
    await andWait(daemon, scene, deleteTraining(scene.studio, 'train_16091885'));
    expect(existing([elsewhere, trainingDirectory(scene, 'train_16091885')])).toEqual([]);
  });

  it('whose directory is already gone is no error: absent, and nothing freed', async () => {
    const scene = await openStudio();
    await createTraining(scene, 'train_1b4d5fff');
    rmSync(trainingDirectory(scene, 'train_1b4d5fff'), { recursive: true });
    const daemon = await runDaemon(scene);
    const { source } = await andWait(daemon, scene, deleteTraining(scene.studio, 'train_1b4d5fff'));
    expect(await audit(scene.db)).toMatchObject([{ outcome: 'absent', attempt: 1 }]);
    expect(await spaceFreedBy(scene.studio, source)).toEqual({ files: 0, bytes: 0 });
  });

  it('leaves its neighbours alone whose names begin with its own', async () => {
    const scene = await openStudio();
    for (const id of ['train_1', 'train_10', 'train_1a']) await createTraining(scene, id);
    write(`${trainingDirectory(scene, 'train_1')}.bak/logs.txt`);
    const daemon = await runDaemon(scene);
    await andWait(daemon, scene, deleteTraining(scene.studio, 'train_1'));
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
    const daemon = await runDaemon(scene);
    await expect(deleteTraining(scene.studio, 'train_21de9472')).rejects.toMatchObject({ code: '23503' });
    expect(await cleanups(scene.db)).toBe(0);
    // The connection that rolled back is good for the next deletion, and the daemon at work: it was not asked to.
    await andWait(daemon, scene, deleteTraining(scene.studio, 'train_2'));
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
    const daemon = await runDaemon(scene);
    const { source } = await andWait(daemon, scene, deleteDataset(scene.studio, id));
    expect(existing([raw, tokenized, `${tokenized}.lock`])).toEqual([`${tokenized}.lock`]);
    expect(await spaceFreedBy(scene.studio, source)).toEqual({ files: 3, bytes });
  });

  it('that was never tokenized has one path only, and one that failed to download has none', async () => {
    const scene = await openStudio();
    const raw = join(scene.studio.data, 'datasets/raw/wiki/');
    write(join(raw, 'part-0'));
    const ids = [await createDataset(scene, { raw }), await createDataset(scene, {})];
    const daemon = await runDaemon(scene);
    for (const id of ids) await andWait(daemon, scene, deleteDataset(scene.studio, id));
    expect(await audit(scene.db)).toMatchObject([{ target: `file://${raw}`, outcome: 'deleted' }]);
    expect(await cleanups(scene.db)).toBe(1);
  });
});

describe('a checkpoint', () => {
  it('goes with the directory of its layer; with the last layer, that of the step goes too', async () => {
    const scene = await openStudio();
    await createTraining(scene, 'train_36766f85');
    const [first = '', ...others] = await createCheckpoints(scene, 'train_36766f85', [498000], LAYERS);
    const step = join(checkpointPath(scene, 'train_36766f85', 498000, 7), '../..');
    const daemon = await runDaemon(scene);
    await andWait(daemon, scene, deleteCheckpoint(scene.studio, first));
    expect(readdirSync(step).sort()).toEqual(['layer_14', 'layer_18']);
    for (const id of others) await andWait(daemon, scene, deleteCheckpoint(scene.studio, id));
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
    const daemon = await runDaemon(scene);
    await andWait(daemon, scene, deleteCheckpoint(scene.studio, row?.id ?? ''));
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
    const daemon = await runDaemon(scene);
    const { deleted, source } = await andWait(
      daemon,
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
    const daemon = await runDaemon(scene);
    await until(
      async () => (await audit(scene.db)).length === 3,
      `three cleanups done (${daemon.inHand} in hand)`,
    );
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

describe('a clean-up that used to fail once and stay', () => {
  it('is tried again until it is done', async () => {
    const scene = await openStudio();
    await createTraining(scene, 'train_238da321');
    const files = createFileHandler();
    let failures = 2;
    const handler: Handler = {
      ...bound(files),
      delete: async (batch, context) =>
        failures-- > 0
          ? batch.map(() => ({ ...NOTHING, outcome: 'retry', error: 'the background task was killed' }))
          : await files.delete(batch, context),
    };
    const daemon = await runDaemon(scene, handler);
    const retries = countEvents(daemon, 'cleanup_retry', 2);
    await andWait(daemon, scene, deleteTraining(scene.studio, 'train_238da321'));
    await retries;
    expect(await audit(scene.db)).toMatchObject([{ outcome: 'deleted', attempt: 3 }]);
    expect(existsSync(trainingDirectory(scene, 'train_238da321'))).toBe(false);
  });

  it('waits, for everybody to see, while no worker runs; and is done once one does', async () => {
    const scene = await openStudio();
    await createTraining(scene, 'train_33e3ed8d');
    await deleteTraining(scene.studio, 'train_33e3ed8d');
    expect(await scene.db.sql('SELECT state, reason, source FROM afterdelete.stuck')).toEqual([
      { state: 'pending', reason: 'unserved', source: 'training train_33e3ed8d deleted' },
    ]);
    await runDaemon(scene);
    await until(async () => (await audit(scene.db)).length === 1, 'the cleanup done');
    expect(existsSync(trainingDirectory(scene, 'train_33e3ed8d'))).toBe(false);
  });

  it('is given up only where no retry can mend it: the log and afterdelete.stuck say why', async () => {
    const scene = await openStudio();
    // Somebody has moved the directory to another disk and left a link; links are not followed.
    const elsewhere = scene.disk.at('other-disk');
    write(join(elsewhere, 'raw/file'));
    const link = join(scene.studio.data, 'datasets/moved');
    symlinkSync(elsewhere, link);
    const id = await createDataset(scene, { raw: join(link, 'raw/') });
    const daemon = startDaemon({ databaseUrl: scene.db.url, roots: scene.roots });
    await deleteDataset(scene.studio, id);
    const line = await daemon.waitFor('cleanup_dead');
    expect(line).toMatchObject({
      level: 50,
      target: `file://${link}/raw/`,
      error: expect.stringContaining('symbolic link'),
    });
    const [stuck] = await scene.db.sql<{ id: string; last_error: string }>('SELECT * FROM afterdelete.stuck');
    expect(stuck).toMatchObject({ state: 'dead', last_error: line.error, source: `data set ${id} deleted` });
    expect(existsSync(join(elsewhere, 'raw/file'))).toBe(true);
    // It is moved back, and an operator says: again.
    rmSync(link);
    renameSync(elsewhere, link);
    await scene.db.sql('SELECT afterdelete.retry($1)', [stuck?.id]);
    await daemon.waitFor('cleanup_done', ({ outcome }) => outcome === 'deleted');
    expect(await scene.db.sql('SELECT FROM afterdelete.stuck')).toEqual([]);
  });
});

describe('a disk that is not mounted', () => {
  it('never looks like files that are gone: the cleanup waits, and is done when it is back', async () => {
    const scene = await openStudio();
    await createTraining(scene, 'train_38265547');
    const daemon = await runDaemon(scene);
    const trainings = trainingDirectory(scene, '.');
    renameSync(trainings, scene.disk.at('unmounted'));
    const paused = nextEvent(daemon, 'store_paused');
    await deleteTraining(scene.studio, 'train_38265547');
    expect(await paused).toMatchObject({ store: 'file://', by: 'root' });
    expect(await audit(scene.db)).toEqual([]);
    renameSync(scene.disk.at('unmounted'), trainings);
    await until(async () => (await audit(scene.db)).length === 1, 'the cleanup done');
    expect(await audit(scene.db)).toMatchObject([{ outcome: 'deleted', attempt: 1, objects: 1 }]);
  });
});

/** A handler's methods as properties: those of a class are not copied by spreading it. */
function bound(handler: Handler): Handler {
  return {
    scheme: handler.scheme,
    batchSize: handler.batchSize,
    delete: (batch, context) => handler.delete(batch, context),
    inspect: (cleanup, context) => handler.inspect(cleanup, context),
    probe: (root, context) => handler.probe(root, context),
    ...(handler.identify ? { identify: handler.identify.bind(handler) } : {}),
    ...(handler.close ? { close: handler.close.bind(handler) } : {}),
  };
}
