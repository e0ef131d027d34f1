/**
 * Heimdall's deletions: what stands behind `DELETE /api/v1/jobs/synthetic/…`. Rows go in a transaction, and with them,
 * in the same one, the order to delete their IQ files. MinIO need not be there; the daemon sees to it when it is.
 */
import { type Kysely, sql, type Transaction } from 'kysely';
import { enqueue } from '../../src/index.ts';
import type { Database } from './database.ts';

export const BUCKET = 'heimdall-synthetic-iq';

export interface Heimdall {
  readonly db: Kysely<Database>;
  /** Takes one line of the structured log. */
  readonly log: (line: { readonly event: string; readonly [field: string]: unknown }) => void;
  /** Ends the worker that runs a job, and resolves when it writes no more; one that has ended already is no error. */
  readonly stopWorker: (jobId: string) => Promise<void>;
}

/** What an HTTP layer answers: the status, and `{"detail": "…"}` as the body. */
export class ApiError extends Error {
  override readonly name = 'ApiError';
  readonly status: 400 | 404 | 409;

  constructor(status: ApiError['status'], detail: string) {
    super(detail);
    this.status = status;
  }

  get body(): { readonly detail: string } {
    return { detail: this.message };
  }
}

/** 204; the ids tell `readStatistics` what to look for. */
export interface DatasetDeletion {
  readonly cleanup_ids: readonly string[];
}

/** 200. How many files went cannot be known yet: they go after COMMIT. `readStatistics` knows. */
export interface JobDeletion extends DatasetDeletion {
  readonly message: string;
  readonly job_id: string;
  readonly datasets_deleted: number;
}

/** `DELETE /api/v1/jobs/synthetic/datasets/{dataset_id}` */
export async function deleteDataset({ db, log }: Heimdall, datasetId: string): Promise<DatasetDeletion> {
  const id = uuid('dataset_id', datasetId);
  const deletion = await db.transaction().execute(async tx => {
    const datasets = await lockDatasets(tx, 'id', id);
    if (datasets.length === 0) throw new ApiError(404, `Synthetic dataset not found: ${id}`);
    await refuseIfInUse(tx, datasets, '');
    return await deleteAll(tx, datasets);
  });
  logDatasets(log, deletion);
  return { cleanup_ids: deletion.flatMap(({ cleanup_ids }) => cleanup_ids) };
}

/** `DELETE /api/v1/jobs/synthetic/{job_id}?delete_dataset={true|false}` */
export async function deleteJob(
  { db, log, stopWorker }: Heimdall,
  jobId: string,
  { deleteDataset = false }: { readonly deleteDataset?: boolean } = {},
): Promise<JobDeletion> {
  const id = uuid('job_id', jobId);
  const advice = ", or uncheck 'delete_dataset'";
  const job = await db
    .selectFrom('heimdall.training_jobs')
    .select('status')
    .where('id', '=', id)
    .executeTakeFirst();
  if (!job) throw new ApiError(404, `Synthetic generation job not found: ${id}`);
  // Asked before the job is cancelled, so that a deletion that is refused costs nobody a running job.
  if (deleteDataset) {
    await db.transaction().execute(async tx => {
      await refuseIfInUse(tx, await lockDatasets(tx, 'created_by_job_id', id), advice);
    });
  }
  if (['pending', 'queued', 'running'].includes(job.status)) {
    // Before its files are enqueued: what a worker wrote afterwards would be nobody's.
    await stopWorker(id);
    await db
      .updateTable('heimdall.training_jobs')
      .set({ status: 'cancelled' })
      .where('id', '=', id)
      .execute();
    log({ event: 'synthetic_job_cancelled', job_id: id });
  }
  const deletion = await db.transaction().execute(async tx => {
    // The lock keeps out a data set that would be registered for this job just now.
    const found = await tx
      .selectFrom('heimdall.training_jobs')
      .select('id')
      .where('id', '=', id)
      .forUpdate()
      .executeTakeFirst();
    if (!found) throw new ApiError(404, `Synthetic generation job not found: ${id}`);
    const datasets = deleteDataset ? await lockDatasets(tx, 'created_by_job_id', id) : [];
    // And again: a model may have been activated meanwhile.
    await refuseIfInUse(tx, datasets, advice);
    const deleted = await deleteAll(tx, datasets);
    // Data sets that stay are let go of by ON DELETE SET NULL.
    await tx.deleteFrom('heimdall.training_jobs').where('id', '=', id).execute();
    return deleted;
  });
  logDatasets(log, deletion);
  const cleanup_ids = deletion.flatMap(dataset => dataset.cleanup_ids);
  log({ event: 'synthetic_job_deleted', job_id: id, datasets_deleted: deletion.length, cleanup_ids });
  return {
    message: `Synthetic generation job ${id} deleted successfully`,
    job_id: id,
    datasets_deleted: deletion.length,
    cleanup_ids,
  };
}

export interface Statistics {
  readonly minio_files_deleted: number;
  readonly bytes_freed: number;
  /** Cleanups that are not finished; they are gone on with, or wait for MinIO. */
  readonly waiting: number;
  /** Cleanups that were given up: `afterdelete.stuck` says why. */
  readonly failed: number;
}

/** What has become of a deletion so far; what cleanups in the middle of their work have deleted is counted in. */
export async function readStatistics(
  { db }: Pick<Heimdall, 'db'>,
  { cleanup_ids }: DatasetDeletion,
): Promise<Statistics> {
  // A cleanup moves from table to table; one statement has one snapshot, which finds it in exactly one of them.
  const { rows } = await sql<Statistics>`
    SELECT coalesce(sum(objects_deleted), 0)::float8 AS minio_files_deleted,
           coalesce(sum(bytes_freed), 0)::float8 AS bytes_freed,
           count(*) FILTER (WHERE state = 'waiting')::int AS waiting,
           count(*) FILTER (WHERE state = 'failed')::int AS failed
      FROM (SELECT id, 'waiting' AS state, objects_deleted, bytes_freed FROM afterdelete.pending_file_cleanup
            UNION ALL
            SELECT id, 'waiting', objects_deleted, bytes_freed FROM afterdelete.running_file_cleanup
            UNION ALL
            SELECT id, 'failed', objects_deleted, bytes_freed FROM afterdelete.dead_file_cleanup
            UNION ALL
            SELECT id, 'done', objects_deleted, bytes_freed FROM afterdelete.done_file_cleanup) AS cleanup
     WHERE id = ANY (${[...cleanup_ids]}::bigint[])`.execute(db);
  return rows[0] ?? { minio_files_deleted: 0, bytes_freed: 0, waiting: 0, failed: 0 };
}

interface Dataset {
  readonly id: string;
  readonly name: string;
  readonly dataset_type: 'iq_raw' | 'feature_based';
}

type DeletedDataset = Dataset & DatasetDeletion;

async function lockDatasets(
  tx: Transaction<Database>,
  column: 'id' | 'created_by_job_id',
  id: string,
): Promise<Dataset[]> {
  return await tx
    .selectFrom('heimdall.synthetic_datasets')
    .select(['id', 'name', 'dataset_type'])
    .where(column, '=', id)
    .orderBy('name')
    .forUpdate()
    .execute();
}

/**
 * Models that are not active are locked too, so that none is activated between this look and COMMIT; a new one cannot
 * refer to a data set that is locked.
 * @throws ApiError 409 for the first data set that an active model uses.
 */
async function refuseIfInUse(
  tx: Transaction<Database>,
  datasets: readonly Dataset[],
  advice: string,
): Promise<void> {
  for (const { id, name } of datasets) {
    const models = await tx
      .selectFrom('heimdall.models')
      .select(['model_name', 'is_active'])
      .where('synthetic_dataset_id', '=', id)
      .orderBy('model_name')
      .forUpdate()
      .execute();
    const active = models.filter(model => model.is_active).map(model => model.model_name);
    if (active.length === 0) continue;
    throw new ApiError(
      409,
      `Cannot delete dataset '${name}': it is currently used by ${active.length} active model(s): ` +
        `${active.join(', ')}. Please deactivate or delete these models first${advice}.`,
    );
  }
}

/** Deletes rows, those of the samples by cascade, and enqueues the files in the same transaction. */
async function deleteAll(tx: Transaction<Database>, datasets: readonly Dataset[]): Promise<DeletedDataset[]> {
  const deleted: DeletedDataset[] = [];
  for (const dataset of datasets) {
    await tx.deleteFrom('heimdall.synthetic_datasets').where('id', '=', dataset.id).execute();
    const cleanup_ids = await enqueue(tx, prefixesOf(dataset), {
      source: `synthetic dataset ${dataset.id} deleted`,
    });
    deleted.push({ ...dataset, cleanup_ids });
  }
  return deleted;
}

/**
 * Older generators wrote to `dataset-{id}/`, and nobody recorded which; a prefix under which nothing is stored ends as
 * `absent`. The id is the database's, in its one spelling, and not the request's: keys are compared byte by byte.
 */
function prefixesOf({ id, dataset_type }: Dataset): string[] {
  if (dataset_type !== 'iq_raw') return [];
  return [`s3://${BUCKET}/synthetic/${id}/`, `s3://${BUCKET}/synthetic/dataset-${id}/`];
}

function logDatasets(log: Heimdall['log'], datasets: readonly DeletedDataset[]): void {
  for (const { id, name, dataset_type, cleanup_ids } of datasets) {
    log({
      event: 'synthetic_dataset_deleted',
      dataset_id: id,
      dataset_name: name,
      dataset_type,
      cleanup_ids,
    });
  }
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

function uuid(name: string, value: string): string {
  if (!UUID.test(value)) throw new ApiError(400, `${name}: expected a UUID, got ${JSON.stringify(value)}`);
  return value.toLowerCase();
}
