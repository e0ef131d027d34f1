/**
 * Heimdall's deletions: what stands behind `DELETE /api/v1/jobs/synthetic/…`. Rows go in a transaction, and that is all.
 * Which IQ files they held is declared in watches.sql, and written down by the database in the same transaction. MinIO
 * need not be there; the daemon sees to it when it is.
 */
import { type Kysely, sql, type Transaction } from 'kysely';
import type { Database } from './database.ts';

/** What a request is carried out with. */
export interface Heimdall {
  readonly db: Kysely<Database>;
  /** Of the HTTP request. The audit trail has it for everything that a deletion sets off: `readStatistics` asks for it. */
  readonly requestId: string;
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

/** 200. How many files went cannot be known yet: they go after COMMIT. `readStatistics` knows. */
export interface JobDeletion {
  readonly message: string;
  readonly job_id: string;
  readonly datasets_deleted: number;
}

/** `DELETE /api/v1/jobs/synthetic/datasets/{dataset_id}`: 204. */
export async function deleteDataset(heimdall: Heimdall, datasetId: string): Promise<void> {
  const id = uuid('dataset_id', datasetId);
  const deleted = await transaction(heimdall, async tx => {
    const datasets = await lockDatasets(tx, 'id', id);
    if (datasets.length === 0) throw new ApiError(404, `Synthetic dataset not found: ${id}`);
    await refuseIfInUse(tx, datasets, '');
    await deleteRows(tx, datasets);
    return datasets;
  });
  logDatasets(heimdall, deleted);
}

/** `DELETE /api/v1/jobs/synthetic/{job_id}?delete_dataset={true|false}` */
export async function deleteJob(
  heimdall: Heimdall,
  jobId: string,
  { deleteDataset = false }: { readonly deleteDataset?: boolean } = {},
): Promise<JobDeletion> {
  const { db, requestId, log, stopWorker } = heimdall;
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
    await transaction(heimdall, async tx => {
      await refuseIfInUse(tx, await lockDatasets(tx, 'created_by_job_id', id), advice);
    });
  }
  if (['pending', 'queued', 'running'].includes(job.status)) {
    // Before its data sets are deleted: what a worker wrote afterwards would be nobody's.
    await stopWorker(id);
    await db
      .updateTable('heimdall.training_jobs')
      .set({ status: 'cancelled' })
      .where('id', '=', id)
      .execute();
    log({ event: 'synthetic_job_cancelled', request_id: requestId, job_id: id });
  }
  const deleted = await transaction(heimdall, async tx => {
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
    await deleteRows(tx, datasets);
    // Data sets that stay are let go of by ON DELETE SET NULL.
    await tx.deleteFrom('heimdall.training_jobs').where('id', '=', id).execute();
    return datasets;
  });
  logDatasets(heimdall, deleted);
  log({
    event: 'synthetic_job_deleted',
    request_id: requestId,
    job_id: id,
    datasets_deleted: deleted.length,
  });
  return {
    message: `Synthetic generation job ${id} deleted successfully`,
    job_id: id,
    datasets_deleted: deleted.length,
  };
}

export interface Statistics {
  readonly minio_files_deleted: number;
  readonly bytes_freed: number;
  /** Cleanups that are not finished; they are gone on with, or wait for MinIO, or for a model that uses the files. */
  readonly waiting: number;
  /** Cleanups that were given up: `afterdelete.stuck` says why. */
  readonly failed: number;
}

/** What has become of a request's deletions so far; what cleanups in the middle of their work have deleted counts. */
export async function readStatistics({ db }: Pick<Heimdall, 'db'>, requestId: string): Promise<Statistics> {
  const statistics = await db
    .selectFrom('heimdall.cleanup_statistics')
    .select(['minio_files_deleted', 'bytes_freed', 'waiting', 'failed'])
    .where('request_id', '=', requestId)
    .executeTakeFirst();
  return statistics ?? { minio_files_deleted: 0, bytes_freed: 0, waiting: 0, failed: 0 };
}

interface Dataset {
  readonly id: string;
  readonly name: string;
  readonly dataset_type: 'iq_raw' | 'feature_based';
}

/** A transaction of a request: what its deletions set off has the request's id. */
export async function transaction<T>(
  { db, requestId }: Pick<Heimdall, 'db' | 'requestId'>,
  work: (tx: Transaction<Database>) => Promise<T>,
): Promise<T> {
  return await db.transaction().execute(async tx => {
    await sql`SELECT set_config('afterdelete.actor', ${requestId}, true)`.execute(tx);
    return await work(tx);
  });
}

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

/** Those of the samples go by cascade. */
async function deleteRows(tx: Transaction<Database>, datasets: readonly Dataset[]): Promise<void> {
  if (datasets.length === 0) return;
  const ids = datasets.map(({ id }) => id);
  await tx.deleteFrom('heimdall.synthetic_datasets').where('id', 'in', ids).execute();
}

function logDatasets({ log, requestId }: Heimdall, datasets: readonly Dataset[]): void {
  for (const { id, name, dataset_type } of datasets) {
    log({
      event: 'synthetic_dataset_deleted',
      request_id: requestId,
      dataset_id: id,
      dataset_name: name,
      dataset_type,
    });
  }
}

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

function uuid(name: string, value: string): string {
  if (!UUID.test(value)) throw new ApiError(400, `${name}: expected a UUID, got ${JSON.stringify(value)}`);
  return value.toLowerCase();
}
