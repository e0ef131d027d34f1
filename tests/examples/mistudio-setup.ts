/** miStudio as a test finds it: its database, its disk, and what it writes there. */
import { join } from 'node:path';
import type { Studio } from '../../examples/mistudio/service.ts';
import { createFileHandler, type Handler, type Reconciler } from '../../src/index.ts';
import { createDisk, type Disk } from '../support/disk.ts';
import { testReconciler } from '../support/reconciler.ts';
import {
  type ApplicationDatabase,
  type ApplicationOptions,
  createApplicationDatabase,
  createPool,
  nothingWaits,
  write,
} from './support.ts';

export interface Scene {
  /** As the owner of everything. */
  readonly db: ApplicationDatabase;
  readonly disk: Disk;
  /** The directory of all data. */
  readonly data: string;
  /** As the service's own role, which has no right in the schema afterdelete. */
  readonly studio: Studio;
  /** Of the daemon: trainings and data sets. */
  readonly roots: readonly string[];
}

export const ACTOR = 'alice, request 7c3f9e42';

export async function openStudio(options: Pick<ApplicationOptions, 'ordinaryOwner'> = {}): Promise<Scene> {
  const disk = createDisk();
  const data = disk.at('data');
  const watches = (sql: string) => sql.replaceAll('file:///data/', `file://${data}/`);
  const db = await createApplicationDatabase('mistudio', { ...options, watches });
  for (const name of ['trainings', 'datasets']) write(join(data, name, 'unrelated/file'));
  return {
    db,
    disk,
    data,
    studio: { pool: createPool(db.urlAs('mistudio_service')), actor: ACTOR },
    roots: [`file://${data}/trainings/`, `file://${data}/datasets/`],
  };
}

/** A daemon in this process; started. */
export async function runDaemon(
  { db, roots }: Pick<Scene, 'db' | 'roots'>,
  handler: Handler = createFileHandler(),
): Promise<Reconciler> {
  const reconciler = testReconciler({
    databaseUrl: db.urlAs('afterdelete_worker'),
    roots,
    handlers: [handler],
  });
  await reconciler.start();
  return reconciler;
}

export const trainingDirectory = ({ data }: Scene, id: string) => join(data, 'trainings', id);

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
  await scene.studio.pool.query('INSERT INTO trainings (id, name, checkpoint_dir) VALUES ($1, $1, $2)', [
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
  const { rows } = await scene.studio.pool.query<{ id: string }>(
    `INSERT INTO checkpoints (training_id, step, layer, storage_path)
     SELECT $1, step, layer, storage_path
       FROM jsonb_to_recordset($2) AS c (step integer, layer integer, storage_path text)
     RETURNING id`,
    [training, JSON.stringify(all)],
  );
  return rows.map(({ id }) => id);
}

/** One checkpoint of a training of a single layer, at this path: file and row. */
export async function createSingleCheckpoint(scene: Scene, training: string, path: string): Promise<string> {
  write(path, 'weights');
  const { rows } = await scene.studio.pool.query<{ id: string }>(
    'INSERT INTO checkpoints (training_id, step, storage_path) VALUES ($1, 5, $2) RETURNING id',
    [training, path],
  );
  return rows[0]?.id ?? '';
}

/** A data set; the paths that are given are rows' values as they stand, e.g. `/data/datasets/raw/squad/`. */
export async function createDataset(
  { studio }: Scene,
  paths: { readonly raw?: string; readonly tokenized?: string },
): Promise<string> {
  const { rows } = await studio.pool.query<{ id: string }>(
    "INSERT INTO datasets (name, raw_path, tokenized_path) VALUES ('squad', $1, $2) RETURNING id",
    [paths.raw ?? null, paths.tokenized ?? null],
  );
  return rows[0]?.id ?? '';
}

/** Deletes something and waits until the daemon has done all that follows from it. */
export async function andWait<T>(scene: Scene, deletion: Promise<T>): Promise<T> {
  const result = await deletion;
  await nothingWaits(scene.db);
  return result;
}
