import { type Contestant, carrierOf } from './contestant.ts';
import { importPeer } from './peers.ts';

interface GraphileWorker {
  run(options: object): Promise<{ stop(): Promise<void> }>;
  runMigrations(options: object): Promise<void>;
  Logger: new (factory: () => () => void) => object;
}

const SCHEMA = 'graphile_worker';
/** The name of the task. */
const TASK = 'cleanup';

async function loadWorker() {
  // Read when it is imported. A line for each job that succeeds is not what is measured.
  process.env.NO_LOG_SUCCESS = '1';
  const worker = await importPeer<GraphileWorker>('graphile-worker');
  return { ...worker, logger: new worker.Logger(() => () => {}) };
}

export const graphile: Contestant = {
  table: `${SCHEMA}._private_jobs`,

  async install(db) {
    const { runMigrations, logger } = await loadWorker();
    await runMigrations({ connectionString: db.url, logger });
  },

  async fill(db, target, from, to) {
    await db.sql(
      `SELECT count(*) FROM ${SCHEMA}.add_jobs(ARRAY(
         SELECT json_populate_record(NULL::${SCHEMA}.job_spec,
                  json_build_object('identifier', '${TASK}', 'payload', json_build_object('target', ${target})))
           FROM generate_series(${from}::bigint, ${to}) i))`,
    );
  },

  async openWriter() {
    return {
      write: (on, target) => on(`SELECT FROM ${SCHEMA}.add_job('${TASK}', $1)`, [JSON.stringify({ target })]),
      end: async () => {},
    };
  },

  async clear(db) {
    await db.sql(`TRUNCATE ${SCHEMA}._private_jobs`);
  },

  async unsettled(db, ids) {
    const rows = await db.sql<{ id: string }>(
      `SELECT id FROM ${SCHEMA}._private_jobs WHERE id = ANY ($1::bigint[])`,
      [ids],
    );
    return rows.map(row => row.id);
  },

  async left(db) {
    const [row] = await db.sql<{ n: number }>(`SELECT count(*)::int AS n FROM ${SCHEMA}._private_jobs`);
    return row?.n ?? 0;
  },

  async load(order, observer) {
    const { run, logger } = await loadWorker();
    const carry = carrierOf(order);
    const task = async ({ target }: { target: string }, { job }: { job: { id: string } }) => {
      observer.begun([target]);
      if (carry !== undefined) await carry(target);
      observer.handled([job.id]);
    };
    return async () => {
      const runner = await run({
        connectionString: order.url,
        noHandleSignals: true,
        logger,
        taskList: { [TASK]: task },
        preset: { worker: order.settings },
      });
      return () => runner.stop();
    };
  },
};
