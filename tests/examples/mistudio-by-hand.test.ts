/**
 * What people do to miStudio's rows with psql, and scripts that know nothing of clean-ups: 39 data sets and 44 trainings
 * lost their rows so, and kept their files.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  andWait,
  checkpointPath,
  createCheckpoints,
  createDataset,
  createTraining,
  openStudio,
  runDaemon,
  type Scene,
  trainingDirectory,
} from './mistudio-setup.ts';
import { audit, cleanups, existing, waitForStuck, write } from './support.ts';

/** As the service's role in psql: plain SQL, one statement after the other. */
const psql = ({ studio }: Scene, text: string) => studio.pool.query(text);

describe('by hand', () => {
  it('a DELETE takes the files along, whoever runs it: no right in the schema afterdelete is needed', async () => {
    const scene = await openStudio();
    const path = join(scene.data, 'datasets/raw/squad/');
    write(join(path, 'train.json'));
    await createDataset(scene, { raw: path });
    for (const text of [
      'SELECT FROM afterdelete.pending_file_cleanup',
      "INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ('file:///data/x')",
      "SELECT afterdelete.enqueue('file:///data/x')",
      "SELECT afterdelete.watch('datasets', 'file:///data/{id}')",
    ]) {
      await expect(psql(scene, text)).rejects.toMatchObject({ code: '42501' });
    }
    await runDaemon(scene);
    await andWait(scene, psql(scene, 'DELETE FROM datasets'));
    expect(existsSync(path)).toBe(false);
    const [{ role } = {}] = (await psql(scene, 'SELECT session_user AS role')).rows;
    expect(await scene.db.sql('SELECT source, actor FROM afterdelete.done_file_cleanup')).toEqual([
      { source: 'DELETE on public.datasets', actor: role },
    ]);
  });

  it('a DELETE that is rolled back, by savepoint or in whole, deletes nothing', async () => {
    const scene = await openStudio();
    for (const id of ['train_1', 'train_2', 'train_3']) await createTraining(scene, id);
    await runDaemon(scene);
    await psql(scene, "BEGIN; DELETE FROM trainings WHERE id = 'train_1'; ROLLBACK");
    expect(await cleanups(scene.db)).toBe(0);
    await andWait(
      scene,
      psql(
        scene,
        `BEGIN; SAVEPOINT s; DELETE FROM trainings WHERE id = 'train_2'; ROLLBACK TO s;
         DELETE FROM trainings WHERE id = 'train_3'; COMMIT`,
      ),
    );
    expect(readdirSync(trainingDirectory(scene, '.')).sort()).toEqual([
      '.afterdelete-root',
      'train_1',
      'train_2',
      'unrelated',
    ]);
  });

  it('TRUNCATE … CASCADE takes everything along that the tables held', async () => {
    const scene = await openStudio();
    for (const id of ['train_1', 'train_2']) {
      await createTraining(scene, id);
      await createCheckpoints(scene, id, [1], [7, 14]);
    }
    await runDaemon(scene);
    // Only the owner may.
    await andWait(scene, scene.db.sql('TRUNCATE trainings CASCADE'));
    expect(readdirSync(trainingDirectory(scene, '.')).sort()).toEqual(['.afterdelete-root', 'unrelated']);
    expect(await cleanups(scene.db)).toBe(6);
  });

  it('a path that is replaced takes its old files along, and leaves the new ones', async () => {
    const scene = await openStudio();
    const [old, anew] = ['raw/squad-v1/', 'raw/squad-v2/'].map(name =>
      join(scene.data, 'datasets', name),
    ) as [string, string];
    for (const path of [old, anew]) write(join(path, 'train.json'));
    await createDataset(scene, { raw: old });
    await runDaemon(scene);
    await andWait(scene, psql(scene, `UPDATE datasets SET name = 'SQuAD'`));
    expect(await cleanups(scene.db)).toBe(0);
    await andWait(scene, psql(scene, `UPDATE datasets SET raw_path = '${anew}'`));
    expect(existing([old, anew])).toEqual([anew]);
    await andWait(scene, psql(scene, 'UPDATE datasets SET raw_path = NULL'));
    expect(existing([old, anew])).toEqual([]);
  });

  it('checkpoints that are moved to another disk leave the old one once every row says so', async () => {
    const scene = await openStudio();
    const [old, anew] = [trainingDirectory(scene, 'slow/1'), trainingDirectory(scene, 'fast/1')];
    await createTraining(scene, 'train_1', { checkpointDir: old });
    for (const path of [`${old}/checkpoint_1.bin`, `${old}/optimizer.bin`, `${anew}/checkpoint_1.bin`]) {
      write(path);
    }
    await psql(
      scene,
      `INSERT INTO checkpoints (training_id, step, storage_path) VALUES ('train_1', 1, '${old}/checkpoint_1.bin')`,
    );
    await runDaemon(scene);
    await psql(scene, `UPDATE trainings SET checkpoint_dir = '${anew}'`);
    expect(await waitForStuck(scene.db, 1)).toMatchObject([
      {
        reason: 'blocked',
        target: `file://${old}/`,
        last_error: expect.stringMatching(
          /^public\.checkpoints \{.*\} holds file:.*checkpoint_1\.bin below it$/,
        ),
      },
    ]);
    expect(readdirSync(old)).toEqual(['checkpoint_1.bin', 'optimizer.bin']);
    await andWait(scene, psql(scene, `UPDATE checkpoints SET storage_path = '${anew}/checkpoint_1.bin'`));
    expect(existsSync(old)).toBe(false);
    expect(readdirSync(anew)).toEqual(['checkpoint_1.bin']);
  });
});

describe('the declarations', () => {
  it('work for an owner who is no superuser, and can be run again', async () => {
    const scene = await openStudio({ ordinaryOwner: true });
    await createTraining(scene, 'train_1');
    await createCheckpoints(scene, 'train_1', [1], [7]);
    await runDaemon(scene);
    await andWait(scene, psql(scene, 'DELETE FROM checkpoints'));
    expect(existsSync(checkpointPath(scene, 'train_1', 1, 7))).toBe(false);
    await scene.db.declare();
    await andWait(scene, psql(scene, 'DELETE FROM trainings'));
    expect(existsSync(trainingDirectory(scene, 'train_1'))).toBe(false);
    expect((await audit(scene.db)).map(({ outcome }) => outcome)).toEqual(['deleted', 'deleted']);
  });

  it('have the indexes that the guard needs, also where texts are not ordered by their bytes', async () => {
    const scene = await openStudio();
    for (const column of [
      'trainings.checkpoint_dir',
      'checkpoints.storage_path',
      'datasets.raw_path',
      'datasets.tokenized_path',
    ]) {
      const [table, name] = column.split('.');
      await scene.db.sql(`ALTER TABLE ${table} ALTER ${name} TYPE text COLLATE "en-x-icu"`);
    }
    // What `afterdelete check` would name.
    expect(await scene.db.sql('SELECT * FROM afterdelete.watch_problems()')).toEqual([]);
  });
});
