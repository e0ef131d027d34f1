/**
 * miStudio's deletions. Each function deletes rows and says in the same transaction which files go with them; none of
 * them touches a file. Once it is committed, the daemon deletes them, however often it has to try.
 */
import type pg from 'pg';
import { enqueue } from '../../src/index.ts';

export interface Studio {
  readonly pool: pg.Pool;
  /** The directory of all data, e.g. `/data`; without a slash at the end. */
  readonly data: string;
}

/** A deletion, committed. */
export interface Deletion {
  readonly deleted: number;
  /** What the daemon has been asked to delete. */
  readonly targets: readonly string[];
  /** Stands in the audit trail: `spaceFreedBy` asks for it. */
  readonly source: string;
}

/** There is no such record: an HTTP layer would answer 404. */
export class NotFoundError extends Error {
  override readonly name = 'NotFoundError';
}

/**
 * Deletes a training with everything it has written: its own directory with `logs.txt`, and `checkpoint_dir` if that is
 * somewhere else. Its checkpoints' rows go by cascade; their files lie in those directories.
 */
export async function deleteTraining({ pool, data }: Studio, id: string): Promise<Deletion> {
  const source = `training ${id} deleted`;
  return await inTransaction(pool, async tx => {
    const [training] = await rows<{ checkpoint_dir: string | null }>(
      tx,
      'DELETE FROM trainings WHERE id = $1 RETURNING checkpoint_dir',
      [id],
    );
    if (!training) throw new NotFoundError(`Training not found: ${id}`);
    // Its own directory is there from the start: a training that fails early has a log and no checkpoint_dir. The slash
    // at the end makes it a tree, and keeps train_1/ apart from train_10/.
    const own = `${data}/trainings/${id}/`;
    const checkpoints = training.checkpoint_dir === null ? own : asDirectory(training.checkpoint_dir);
    const directories = checkpoints.startsWith(own) ? [own] : [own, checkpoints];
    const targets = directories.map(directory => `file://${directory}`);
    await enqueue(tx, targets, { source });
    return { deleted: 1, targets, source };
  });
}

/** Deletes a data set with its raw and its tokenized files, as far as it has any. */
export async function deleteDataset({ pool }: Studio, id: string): Promise<Deletion> {
  const source = `data set ${id} deleted`;
  return await inTransaction(pool, async tx => {
    const [dataset] = await rows<{ raw_path: string | null; tokenized_path: string | null }>(
      tx,
      'DELETE FROM datasets WHERE id = $1 RETURNING raw_path, tokenized_path',
      [id],
    );
    if (!dataset) throw new NotFoundError(`Data set not found: ${id}`);
    const paths = [dataset.raw_path, dataset.tokenized_path].filter(path => path !== null);
    const targets = paths.map(path => `file://${path}`);
    await enqueue(tx, targets, { source });
    return { deleted: 1, targets, source };
  });
}

/** Deletes one checkpoint; with `deleteFile: false` only its row. */
export async function deleteCheckpoint(
  { pool }: Studio,
  id: string,
  { deleteFile = true }: { readonly deleteFile?: boolean } = {},
): Promise<Deletion> {
  const source = `checkpoint ${id} deleted`;
  return await inTransaction(pool, async tx => {
    const deleted = await rows<Checkpoint>(
      tx,
      'DELETE FROM checkpoints WHERE id = $1 RETURNING layer, storage_path',
      [id],
    );
    if (deleted.length === 0) throw new NotFoundError(`Checkpoint not found: ${id}`);
    return await enqueueCheckpoints(tx, deleteFile ? deleted : [], { source, deleted: 1 });
  });
}

/** Deletes a training's checkpoints, all layers of them, except those of its newest steps. */
export async function keepNewestCheckpoints(
  { pool }: Studio,
  trainingId: string,
  keep: number,
): Promise<Deletion> {
  if (!Number.isInteger(keep) || keep < 1) {
    throw new RangeError(
      `keep: expected a whole number from 1, got ${keep}; to keep none, delete the training`,
    );
  }
  const source = `checkpoints of ${trainingId} cleaned up, newest ${keep} kept`;
  return await inTransaction(pool, async tx => {
    // The lock lets two clean-ups of one training, each with its own idea of the newest, only run in turn.
    const found = await rows(tx, 'SELECT FROM trainings WHERE id = $1 FOR UPDATE', [trainingId]);
    if (found.length === 0) throw new NotFoundError(`Training not found: ${trainingId}`);
    const deleted = await rows<Checkpoint>(
      tx,
      `DELETE FROM checkpoints
        WHERE training_id = $1
          AND step NOT IN (SELECT DISTINCT step FROM checkpoints WHERE training_id = $1 ORDER BY step DESC LIMIT $2)
       RETURNING layer, storage_path`,
      [trainingId, keep],
    );
    return await enqueueCheckpoints(tx, deleted, { source, deleted: deleted.length });
  });
}

/** What the deletions with this source have freed so far: the audit trail knows, long after the request was answered. */
export async function spaceFreedBy(
  { pool }: Studio,
  source: string,
): Promise<{ readonly files: number; readonly bytes: number }> {
  const [sum] = await rows<{ files: number; bytes: number }>(
    pool,
    // float8 reaches JavaScript as a number, and is exact up to 9 petabytes.
    `SELECT coalesce(sum(objects_deleted), 0)::float8 AS files, coalesce(sum(bytes_freed), 0)::float8 AS bytes
       FROM afterdelete.done_file_cleanup WHERE source = $1`,
    [source],
  );
  return sum ?? { files: 0, bytes: 0 };
}

interface Checkpoint {
  readonly layer: number | null;
  readonly storage_path: string;
}

async function enqueueCheckpoints(
  tx: pg.PoolClient,
  checkpoints: readonly Checkpoint[],
  { source, deleted }: { readonly source: string; readonly deleted: number },
): Promise<Deletion> {
  const target = ({ storage_path }: Checkpoint) => `file://${storage_path}`;
  const layered = checkpoints.filter(({ layer }) => layer !== null).map(target);
  const single = checkpoints.filter(({ layer }) => layer === null).map(target);
  // checkpoint_N/layer_M/checkpoint.safetensors: both directories go when they are empty, but never checkpoints/ above.
  await enqueue(tx, layered, { pruneParents: 2, source });
  await enqueue(tx, single, { pruneParents: 1, source });
  return { deleted, targets: [...layered, ...single], source };
}

const asDirectory = (path: string) => (path.endsWith('/') ? path : `${path}/`);

async function rows<Row extends object>(
  db: pg.Pool | pg.PoolClient,
  text: string,
  values: unknown[],
): Promise<Row[]> {
  return (await db.query<Row & pg.QueryResultRow>(text, values)).rows;
}

async function inTransaction<T>(pool: pg.Pool, work: (tx: pg.PoolClient) => Promise<T>): Promise<T> {
  const client = await pool.connect();
  try {
    await client.query('BEGIN');
    const result = await work(client);
    await client.query('COMMIT');
    client.release();
    return result;
  } catch (error) {
    // A connection that cannot even roll back is not given to the next one.
    const broken = await client.query('ROLLBACK').then(
      () => false,
      () => true,
    );
    client.release(broken);
    throw error;
  }
}
