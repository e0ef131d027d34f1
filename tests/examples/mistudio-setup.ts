/** miStudio as a test finds it: its database, its disk, and what it writes there. */
import { join } from 'node:path';
import type { Studio } from '../../examples/mistudio/service.ts';
import { createFileHandler, type Handler, type Reconciler } from '../../src/index.ts';
import type { TestDatabase } from '../support/database.ts';
import { createDisk, type Disk } from '../support/disk.ts';
import { testReconciler, until } from '../support/reconciler.ts';
import { audit, createApplicationDatabase, createPool, write } from './support.ts';

export interface Scene {
  readonly db: TestDatabase;
  readonly disk: Disk;
  readonly studio: Studio;
  /** Of the daemon: trainings and data sets. */
  readonly roots: readonly string[];
}

export async function openStudio(): Promise<Scene> {
  const db = await createApplicationDatabase('mistudio');
  const disk = createDisk();
  const data = disk.at('data');
  for (const name of ['trainings', 'datasets']) write(join(data, name, 'unrelated/file'));
  return {
    db,
    disk,
    studio: { pool: createPool(db), data },
    roots: [`file://${data}/trainings/`, `file://${data}/datasets/`],
  };
}

/** A daemon in this process; started. */
export async function runDaemon(
  { db, roots }: Scene,
  handler: Handler = createFileHandler(),
): Promise<Reconciler> {
  const reconciler = testReconciler({ databaseUrl: db.url, roots, handlers: [handler] });
  await reconciler.start();
  return reconciler;
}

export const trainingDirectory = ({ studio }: Scene, id: string) => join(studio.data, 'trainings', id);

export function checkpointPath(scene: Scene, training: string, step: number, layer: number): string {
  return join(
    trainingDirectory(scene, training),
    `checkpoints/checkpoint_${step}/layer_${layer}/checkpoint.safetensors`,
  );
}

/** A training with its log. `checkpointDir`: as the row has it; default: none. */
export async function createTraining(
  scene: Scene,
  id: string,
  { checkpointDir = null }: { checkpointDir?: string | null } = {},
): Promise<void> {
  write(join(trainingDirectory(scene, id), 'logs.txt'), 'epoch 1: loss 0.42\n');
  await scene.db.sql('INSERT INTO trainings (id, name, checkpoint_dir) VALUES ($1, $1, $2)', [
    id,
    checkpointDir,
  ]);
}

/** Checkpoints of these steps, one for each layer: files and rows. Returns the ids, in the same order. */
export async function createCheckpoints(
  scene: Scene,
  training: string,
  steps: readonly number[],
  layers: readonly number[],
): Promise<string[]> {
  const all = steps.flatMap(step =>
    layers.map(layer => ({ step, layer, storage_path: checkpointPath(scene, training, step, layer) })),
  );
  for (const { storage_path } of all) write(storage_path, 'weights');
  const ids = await scene.db.sql<{ id: string }>(
    `INSERT INTO checkpoints (training_id, step, layer, storage_path)
     SELECT $1, step, layer, storage_path
       FROM jsonb_to_recordset($2) AS c (step integer, layer integer, storage_path text)
     RETURNING id`,
    [training, JSON.stringify(all)],
  );
  return ids.map(({ id }) => id);
}

/** A data set; the paths that are given are rows' values as they stand, e.g. `/data/datasets/raw/squad/`. */
export async function createDataset(
  { db }: Scene,
  paths: { readonly raw?: string; readonly tokenized?: string },
): Promise<string> {
  const [dataset] = await db.sql<{ id: string }>(
    "INSERT INTO datasets (name, raw_path, tokenized_path) VALUES ('squad', $1, $2) RETURNING id",
    [paths.raw ?? null, paths.tokenized ?? null],
  );
  return dataset?.id ?? '';
}

/** Deletes something and waits until the daemon has done all that it was asked for. */
export async function andWait<T extends { targets: readonly string[] }>(
  scene: Scene,
  deletion: Promise<T>,
): Promise<T> {
  const result = await deletion;
  await until(
    async () =>
      (await audit(scene.db)).filter(row => result.targets.includes(row.target)).length ===
      result.targets.length,
    `${result.targets.length} cleanups done`,
  );
  return result;
}
