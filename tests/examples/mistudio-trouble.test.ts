/** miStudio's stories of background tasks: 39 data sets were left behind by those that failed once. */
import { existsSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { deleteDataset, deleteTraining } from '../../examples/mistudio/service.ts';
import { createFileHandler, type Handler, NOTHING } from '../../src/index.ts';
import { startDaemon } from '../support/daemon.ts';
import { countEvents, nextEvent, until } from '../support/reconciler.ts';
import {
  ACTOR,
  andWait,
  createDataset,
  createTraining,
  openStudio,
  runDaemon,
  trainingDirectory,
} from './mistudio-setup.ts';
import { audit, stuck, write } from './support.ts';

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
    await andWait(scene, deleteTraining(scene.studio, 'train_238da321'));
    await retries;
    expect(await audit(scene.db)).toMatchObject([{ outcome: 'deleted', attempt: 3 }]);
    expect(existsSync(trainingDirectory(scene, 'train_238da321'))).toBe(false);
  });

  it('waits, for everybody to see, while no worker runs; and is done once one does', async () => {
    const scene = await openStudio();
    await createTraining(scene, 'train_33e3ed8d');
    await deleteTraining(scene.studio, 'train_33e3ed8d');
    expect(await stuck(scene.db)).toMatchObject([
      { state: 'pending', reason: 'unserved', source: 'DELETE on public.trainings', actor: ACTOR },
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
    const link = join(scene.data, 'datasets/moved');
    symlinkSync(elsewhere, link);
    const id = await createDataset(scene, { raw: join(link, 'raw/') });
    const daemon = startDaemon({ databaseUrl: scene.db.urlAs('afterdelete_worker'), roots: scene.roots });
    await deleteDataset(scene.studio, id);
    const line = await daemon.waitFor('cleanup_dead');
    expect(line).toMatchObject({
      level: 50,
      target: `file://${link}/raw/`,
      error: expect.stringContaining('symbolic link'),
    });
    expect(await stuck(scene.db)).toMatchObject([
      { state: 'dead', last_error: line.error, source: 'DELETE on public.datasets', actor: ACTOR },
    ]);
    expect(existsSync(join(elsewhere, 'raw/file'))).toBe(true);
    // It is moved back, and an operator says: again.
    rmSync(link);
    renameSync(elsewhere, link);
    await scene.db.sql('SELECT afterdelete.retry(id) FROM afterdelete.stuck');
    await daemon.waitFor('cleanup_done', ({ outcome }) => outcome === 'deleted');
    expect(await stuck(scene.db)).toEqual([]);
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
