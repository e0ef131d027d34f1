/** Heimdall as a test finds it: its database, its MinIO (the project's own S3 server), its log. */
import { Kysely, PostgresDialect } from 'kysely';
import { onTestFinished } from 'vitest';
import type { Database } from '../../examples/heimdall/database.ts';
import { type Heimdall, readStatistics, type Statistics } from '../../examples/heimdall/service.ts';
import { createS3Handler, type Reconciler } from '../../src/index.ts';
import { type S3Server, startS3Server } from '../s3-server/server.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { testReconciler, until } from '../support/reconciler.ts';
import {
  type ApplicationDatabase,
  type ApplicationOptions,
  cleanups,
  createApplicationDatabase,
  createPool,
} from './support.ts';

export type LogLine = Parameters<Heimdall['log']>[0];

export interface Scene {
  /** As the owner of everything. */
  readonly db: ApplicationDatabase;
  readonly s3: S3Server;
  /** As the API's own role, which has no right in the schema afterdelete. All is one request: `REQUEST`. */
  readonly heimdall: Heimdall;
  /** What Heimdall has logged. */
  readonly lines: readonly LogLine[];
  /** The keys below a prefix. */
  keys(prefix: string): string[];
}

export const BUCKET = 'heimdall-synthetic-iq';
export const REQUEST = 'request 5f0c';

const ROOT = `s3://${BUCKET}/synthetic/`;
const RECORDING = Buffer.alloc(400, 'iq');
const RECEIVERS = 3;

export async function openHeimdall(
  stopWorker: Heimdall['stopWorker'] = async () => {},
  options: ApplicationOptions = {},
): Promise<Scene> {
  const db = await createApplicationDatabase('heimdall', options);
  const s3 = await startS3Server({ buckets: [BUCKET] });
  onTestFinished(() => s3.stop());
  const lines: LogLine[] = [];
  return {
    db,
    s3,
    lines,
    heimdall: {
      db: kyselyAs(db, 'heimdall_api'),
      requestId: REQUEST,
      log: line => lines.push(line),
      stopWorker,
    },
    keys: prefix => s3.buckets.list(BUCKET, prefix),
  };
}

export const kyselyAs = (db: ApplicationDatabase, role: string) =>
  new Kysely<Database>({ dialect: new PostgresDialect({ pool: createPool(db.urlAs(role)) }) });

/** A daemon in this process; started. It tries again soon, and does not give up. */
export async function runDaemon({ db, s3 }: Scene): Promise<Reconciler> {
  const { endpoint, accessKeyId, secretAccessKey } = s3;
  const settings = { endpoint, region: 'us-east-1', credentials: { accessKeyId, secretAccessKey } };
  const reconciler = testReconciler({
    databaseUrl: db.urlAs('afterdelete_worker'),
    roots: [ROOT],
    handlers: [createS3Handler({ stores: new Map([[`s3://${BUCKET}`, settings]]) })],
    maxAttempts: 1_000_000,
  });
  await reconciler.start();
  return reconciler;
}

/** The built daemon, where its log or its metrics are looked at. */
export function startBuiltDaemon({ db, s3 }: Scene): Daemon {
  return startDaemon({
    databaseUrl: db.urlAs('afterdelete_worker'),
    roots: [ROOT],
    env: {
      AWS_ENDPOINT_URL_S3: s3.endpoint,
      AWS_ACCESS_KEY_ID: s3.accessKeyId,
      AWS_SECRET_ACCESS_KEY: s3.secretAccessKey,
      AFTERDELETE_RETRY_BASE: '1ms',
      AFTERDELETE_RETRY_CAP: '10ms',
    },
  });
}

export interface DatasetOptions {
  readonly name?: string;
  readonly type?: 'iq_raw' | 'feature_based';
  readonly job?: string;
  readonly samples?: number;
  /** Where its files are: `{id}` or `dataset-{id}`. */
  readonly directory?: (id: string) => string;
  readonly id?: string;
}

export interface StoredDataset {
  readonly id: string;
  readonly prefix: string;
  readonly files: number;
  readonly bytes: number;
}

/** A data set with its samples: `sample-N/rx_M.npy`, from each receiver one. Of either type: tests see who deletes. */
export async function createDataset(
  { db, s3 }: Scene,
  { name, type = 'iq_raw', job, samples = 10, directory = id => id, id: given }: DatasetOptions = {},
): Promise<StoredDataset> {
  const [row] = await db.sql<{ id: string }>(
    `INSERT INTO heimdall.synthetic_datasets (id, name, dataset_type, num_samples, created_by_job_id)
     SELECT id, coalesce($2, id::text), $3, $4, $5 FROM coalesce($1::uuid, gen_random_uuid()) AS id RETURNING id`,
    [given ?? null, name ?? null, type, samples, job ?? null],
  );
  const id = row?.id ?? '';
  await db.sql(
    type === 'iq_raw'
      ? 'INSERT INTO heimdall.synthetic_iq_samples SELECT $1::uuid, generate_series(1, $2::int)'
      : "INSERT INTO heimdall.synthetic_training_samples SELECT $1::uuid, generate_series(1, $2::int), '{0.5}'",
    [id, samples],
  );
  const prefix = `synthetic/${directory(id)}/`;
  for (let sample = 0; sample < samples; sample++) {
    for (let receiver = 0; receiver < RECEIVERS; receiver++) {
      s3.buckets.put(BUCKET, `${prefix}sample-${sample}/rx_${receiver}.npy`, RECORDING);
    }
  }
  const files = samples * RECEIVERS;
  return { id, prefix, files, bytes: files * RECORDING.length };
}

export async function createJob({ db }: Scene, status = 'completed'): Promise<string> {
  const [job] = await db.sql<{ id: string }>(
    'INSERT INTO heimdall.training_jobs (status) VALUES ($1) RETURNING id',
    [status],
  );
  return job?.id ?? '';
}

export async function createModel(
  { db }: Scene,
  name: string,
  dataset: string,
  active = true,
): Promise<void> {
  await db.sql(
    'INSERT INTO heimdall.models (model_name, synthetic_dataset_id, is_active) VALUES ($1, $2, $3)',
    [name, dataset, active],
  );
}

export const statistics = ({ heimdall }: Scene) => readStatistics(heimdall, REQUEST);

/** Waits until all that was deleted has been carried out in full, and returns the statistics. */
export async function finished(scene: Scene): Promise<Statistics> {
  let answer = await statistics(scene);
  await until(async () => {
    answer = await statistics(scene);
    return answer.waiting === 0;
  }, 'all cleanups done');
  return answer;
}

/** What must be the same when nothing was deleted. */
export async function state({ db, s3 }: Scene) {
  return {
    cleanups: await cleanups(db),
    objects: s3.buckets.list(BUCKET),
    datasets: await db.sql('SELECT * FROM heimdall.synthetic_datasets ORDER BY id'),
    samples: await db.sql('SELECT * FROM heimdall.synthetic_iq_samples ORDER BY 1, 2'),
    jobs: await db.sql('SELECT * FROM heimdall.training_jobs ORDER BY id'),
  };
}
