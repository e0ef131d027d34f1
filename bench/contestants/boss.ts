import pLimit from 'p-limit';
import { type Contestant, carrierOf, type Db } from './contestant.ts';
import { importPeer } from './peers.ts';

interface Job {
  readonly id: string;
  readonly data: { readonly target: string };
}

interface Boss {
  on(event: 'error', listener: (error: unknown) => void): void;
  start(): Promise<unknown>;
  stop(options: object): Promise<void>;
  createQueue(name: string, options: object): Promise<void>;
  send(name: string, data: object, options: object): Promise<unknown>;
  insert(name: string, jobs: readonly object[]): Promise<unknown>;
  work(name: string, options: object, handler: (jobs: readonly Job[]) => Promise<void>): Promise<string>;
}

const SCHEMA = 'pgboss';
const QUEUE = 'cleanup';
/** Jobs that are written at once. */
const CHUNK = 10_000;

async function startBoss(options: object): Promise<Boss> {
  const { PgBoss } = await importPeer<{ PgBoss: new (options: object) => Boss }>('pg-boss');
  const boss = new PgBoss(options);
  boss.on('error', error => console.error(error));
  await boss.start();
  return boss;
}

/** One that writes and does nothing else. */
const startWriter = (db: Db) =>
  startBoss({ connectionString: db.url, supervise: false, schedule: false, registerInstance: false });

async function withWriter(db: Db, work: (writer: Boss) => Promise<void>): Promise<void> {
  const writer = await startWriter(db);
  try {
    await work(writer);
  } finally {
    await writer.stop({ graceful: false });
  }
}

export const boss: Contestant = {
  table: `${SCHEMA}.job`,

  async install(db) {
    await withWriter(db, writer => writer.createQueue(QUEUE, { notify: true }));
  },

  async fill(db, target, from, to) {
    await withWriter(db, async writer => {
      for (let first = from; first <= to; first += CHUNK) {
        const last = Math.min(to, first + CHUNK - 1);
        const rows = await db.sql<{ target: string }>(
          `SELECT ${target} AS target FROM generate_series(${first}::bigint, ${last}) i`,
        );
        await writer.insert(
          QUEUE,
          rows.map(data => ({ data })),
        );
      }
    });
  },

  async openWriter(db) {
    const writer = await startWriter(db);
    return {
      write: (on, target) => writer.send(QUEUE, { target }, { db: { executeSql: on } }),
      end: () => writer.stop({ graceful: false }),
    };
  },

  async clear(db) {
    await db.sql(`TRUNCATE ${SCHEMA}.job`);
  },

  async unsettled(db, ids) {
    const rows = await db.sql<{ id: string }>(
      `SELECT id FROM ${SCHEMA}.job WHERE name = '${QUEUE}' AND id = ANY ($1::uuid[]) AND state < 'completed'`,
      [ids],
    );
    return rows.map(row => row.id);
  },

  async left(db) {
    const [row] = await db.sql<{ n: number }>(
      `SELECT count(*)::int AS n FROM ${SCHEMA}.job WHERE name = '${QUEUE}' AND state < 'completed'`,
    );
    return row?.n ?? 0;
  },

  async load(order, observer) {
    const { useListenNotify, inFlight, ...work } = order.settings as {
      useListenNotify?: boolean;
      inFlight?: number;
    };
    // Its start, which looks at the schema and begins its maintenance, is not counted as work.
    const worker = await startBoss({
      connectionString: order.url,
      ...(useListenNotify === undefined ? {} : { useListenNotify }),
    });
    const carry = carrierOf(order);
    const limit = pLimit(inFlight ?? 1);
    return async () => {
      await worker.work(QUEUE, work, async jobs => {
        observer.begun(jobs.map(job => job.data.target));
        if (carry !== undefined) await limit.map(jobs, job => carry(job.data.target));
        observer.handled(jobs.map(job => job.id));
      });
      return () => worker.stop({ graceful: false });
    };
  },
};
