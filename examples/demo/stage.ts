/**
 * Where the stories take place: a PostgreSQL with the tables of two services in it, a directory with trainings, an S3
 * server with data sets, and one daemon, all in this process or below it, on ports that were free.
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { createFileHandler } from '../../src/handlers/file/index.ts';
import { createS3Handler } from '../../src/handlers/s3/index.ts';
import { migrate } from '../../src/outbox/migrate.ts';
import type { CleanupDone, CleanupEvent, StoreEvent } from '../../src/reconciler/events.ts';
import { createReconciler } from '../../src/reconciler/reconciler.ts';
import { type S3Server, startS3Server } from '../../tests/s3-server/server.ts';
import { Listener } from './listener.ts';
import type { Workshop } from './workshop.ts';

export const SYNTHETIC = 'heimdall-synthetic-iq';
export const RECORDED = 'heimdall-raw-iq';

/** The tables of the services: what they had before they knew of afterdelete, and no column more. */
const TABLES = `
CREATE TABLE trainings (id text PRIMARY KEY);
CREATE TABLE checkpoints (
  training_id  text NOT NULL REFERENCES trainings ON DELETE CASCADE,
  step         integer NOT NULL,
  layer        integer NOT NULL,
  storage_path text NOT NULL,
  PRIMARY KEY (training_id, step, layer)
);
CREATE TABLE synthetic_datasets (id uuid PRIMARY KEY, name text NOT NULL UNIQUE);
CREATE TABLE recording_sessions (id uuid PRIMARY KEY);`;

/** Of the daemon, in ms. A quarter of it passes at most until the database knows which stores are paused. */
const LEASE = 4_000;

/** What the audit trail says of one cleanup, or of all with one outcome. */
export interface Audit {
  readonly outcome: string;
  readonly attempt: number;
  readonly objects: number;
  readonly bytes: number;
}

type Row = Record<string, unknown>;

export class Stage {
  /** The directory that holds a directory for each training: a root. Without a slash at the end. */
  readonly trainings: string;
  /** A directory beside it: inside no root. */
  readonly models: string;
  readonly s3: S3Server;
  /** What has ended so far, by outcome, as the stories saw it: the last one compares it with the audit trail. */
  readonly ended = new Map<string, { cleanups: number; objects: number; bytes: number }>();
  readonly #client: pg.Client;
  readonly #listener: Listener;
  readonly #signal: AbortSignal;

  constructor(parts: {
    directory: string;
    s3: S3Server;
    client: pg.Client;
    listener: Listener;
    signal: AbortSignal;
  }) {
    this.trainings = join(parts.directory, 'trainings');
    this.models = join(parts.directory, 'models');
    this.s3 = parts.s3;
    this.#client = parts.client;
    this.#listener = parts.listener;
    this.#signal = parts.signal;
  }

  /** Sends SQL as it stands, several statements at once if need be; returns the rows of the last that gave any. */
  async run(text: string): Promise<Row[]> {
    this.#signal.throwIfAborted();
    const answer: unknown = await this.#client.query(text);
    const results = (Array.isArray(answer) ? answer : [answer]) as pg.QueryResult<Row>[];
    return results.findLast(result => result.rows.length > 0)?.rows ?? [];
  }

  async rows<R extends object = Row>(text: string, values: unknown[] = []): Promise<R[]> {
    this.#signal.throwIfAborted();
    return (await this.#client.query<R & pg.QueryResultRow>(text, values)).rows;
  }

  /** Waits until the daemon says that a cleanup is done. */
  async done(id: string): Promise<CleanupDone> {
    return await this.#listener.first('cleanup_done', event => event.id === id, `cleanup ${id} is done`);
  }

  /** Waits until the daemon gives a cleanup up. */
  async dead(id: string): Promise<CleanupEvent & { readonly error: string }> {
    return await this.#listener.first('cleanup_dead', event => event.id === id, `cleanup ${id} is dead`);
  }

  async paused(store: string): Promise<StoreEvent & { readonly reason: string }> {
    const matches = (event: StoreEvent) => event.store === store && event.by === 'breaker';
    return await this.#listener.first('store_paused', matches, `${store} is paused by the breaker`);
  }

  async resumed(store: string): Promise<StoreEvent> {
    const matches = (event: StoreEvent) => event.store === store && event.by === 'breaker';
    return await this.#listener.first('store_resumed', matches, `${store} is served again`);
  }

  /** What the audit trail says of a cleanup, which is reckoned up for the last story. */
  async audit(id: string): Promise<Audit | undefined> {
    const [row] = await this.rows<Audit>(
      `SELECT outcome, attempt, coalesce(objects_deleted, 0)::integer AS objects,
              coalesce(bytes_freed, 0)::integer AS bytes
         FROM afterdelete.done_file_cleanup WHERE id = $1`,
      [id],
    );
    if (row === undefined) return undefined;
    const sum = this.ended.get(row.outcome) ?? { cleanups: 0, objects: 0, bytes: 0 };
    this.ended.set(row.outcome, {
      cleanups: sum.cleanups + 1,
      objects: sum.objects + row.objects,
      bytes: sum.bytes + row.bytes,
    });
    return row;
  }

  /** How many rows stand in the outbox, whatever their state; done ones have left it. */
  async waiting(): Promise<number> {
    const [row] = await this.rows<{ waiting: number }>(
      'SELECT coalesce(sum(pending + running + dead), 0)::integer AS waiting FROM afterdelete.backlog',
    );
    return row?.waiting ?? Number.NaN;
  }
}

/**
 * Starts everything. What is started is stopped with the workshop, also when this throws halfway.
 * Once the signal is aborted, whoever waits for something on the stage waits no longer.
 */
export async function openStage(workshop: Workshop, signal: AbortSignal): Promise<Stage> {
  const directory = join(workshop.directory, 'data');
  for (const name of ['trainings', 'models']) mkdirSync(join(directory, name), { recursive: true });

  const postgres = await workshop.startPostgres();
  // Said outright: a PGSSLMODE of the user's own is meant for another server.
  const databaseUrl = `${postgres.url()}?sslmode=disable`;
  await migrate(databaseUrl);
  const client = new pg.Client({ connectionString: databaseUrl, application_name: 'demo service' });
  // Ctrl-C reaches PostgreSQL, too: the next query tells of it, if there is one.
  client.on('error', () => {});
  await client.connect();
  workshop.onClose(() => client.end());
  await client.query(TABLES);

  const s3 = await startS3Server({ buckets: [SYNTHETIC] });
  workshop.onClose(() => s3.stop());

  const { endpoint, accessKeyId, secretAccessKey } = s3;
  const settings = { endpoint, region: 'us-east-1', credentials: { accessKeyId, secretAccessKey } };
  const stores = new Map([SYNTHETIC, RECORDED].map(bucket => [`s3://${bucket}`, settings]));
  const reconciler = createReconciler({
    name: 'demo daemon',
    databaseUrl,
    roots: [`file://${directory}/trainings/`, `s3://${SYNTHETIC}/synthetic/`, `s3://${RECORDED}/sessions/`],
    handlers: [createFileHandler(), createS3Handler({ stores })],
    lease: LEASE,
    shutdownGrace: 2_000,
  });
  workshop.onClose(() => reconciler.stop());
  const listener = new Listener(reconciler, signal);
  await reconciler.start();
  return new Stage({ directory, s3, client, listener, signal });
}
