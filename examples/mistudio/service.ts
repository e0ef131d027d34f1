/**
 * miStudio's deletions: of rows, and of nothing else. Which files go with them is declared in watches.sql; so the same
 * happens when somebody deletes the rows with psql.
 */
import type pg from 'pg';

export interface Studio {
  readonly pool: pg.Pool;
  /** Who asks, and for what: it stands in the audit trail with everything that a deletion sets off. */
  readonly actor: string;
}

/** There is no such record: an HTTP layer would answer 404. */
export class NotFoundError extends Error {
  override readonly name = 'NotFoundError';
}

/** Deletes a training; its checkpoints' rows go by cascade. */
export async function deleteTraining(studio: Studio, id: string): Promise<void> {
  await deleteOne(studio, 'DELETE FROM trainings WHERE id = $1', id, 'Training');
}

export async function deleteDataset(studio: Studio, id: string): Promise<void> {
  await deleteOne(studio, 'DELETE FROM datasets WHERE id = $1', id, 'Data set');
}

export async function deleteCheckpoint(studio: Studio, id: string): Promise<void> {
  await deleteOne(studio, 'DELETE FROM checkpoints WHERE id = $1', id, 'Checkpoint');
}

/** Deletes a training's checkpoints, all layers of them, except those of its newest steps. Returns how many. */
export async function keepNewestCheckpoints(
  studio: Studio,
  trainingId: string,
  keep: number,
): Promise<number> {
  if (!Number.isInteger(keep) || keep < 1) {
    throw new RangeError(
      `keep: expected a whole number from 1, got ${keep}; to keep none, delete the training`,
    );
  }
  return await inTransaction(studio, async tx => {
    // The lock lets two clean-ups of one training, each with its own idea of the newest, only run in turn.
    const training = await tx.query('SELECT FROM trainings WHERE id = $1 FOR UPDATE', [trainingId]);
    if (training.rowCount === 0) throw new NotFoundError(`Training not found: ${trainingId}`);
    const { rowCount } = await tx.query(
      `DELETE FROM checkpoints
        WHERE training_id = $1
          AND step NOT IN (SELECT DISTINCT step FROM checkpoints WHERE training_id = $1 ORDER BY step DESC LIMIT $2)`,
      [trainingId, keep],
    );
    return rowCount ?? 0;
  });
}

/** What an actor's deletions have freed so far: the audit trail knows, long after the request was answered. */
export async function spaceFreed({
  pool,
  actor,
}: Studio): Promise<{ readonly files: number; readonly bytes: number }> {
  const { rows } = await pool.query<{ files: number; bytes: number }>(
    'SELECT files, bytes FROM space_freed WHERE actor = $1',
    [actor],
  );
  return rows[0] ?? { files: 0, bytes: 0 };
}

async function deleteOne(studio: Studio, text: string, id: string, what: string): Promise<void> {
  await inTransaction(studio, async tx => {
    const { rowCount } = await tx.query(text, [id]);
    if (rowCount === 0) throw new NotFoundError(`${what} not found: ${id}`);
  });
}

async function inTransaction<T>(
  { pool, actor }: Studio,
  work: (tx: pg.PoolClient) => Promise<T>,
): Promise<T> {
  const client = await pool.connect();
  try {
    await client.query('BEGIN');
    await client.query("SELECT set_config('afterdelete.actor', $1, true)", [actor]);
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
