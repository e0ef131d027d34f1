import type { Handler } from '../../src/index.ts';
import type { Contestant, Observer, Order } from './contestant.ts';

const SCHEMA = 'afterdelete';

export const afterdelete: Contestant = {
  table: `${SCHEMA}.pending_file_cleanup`,

  // The stage has migrated the database.
  async install() {},

  async fill(db, target, from, to) {
    await db.sql(
      `INSERT INTO ${SCHEMA}.pending_file_cleanup (target) SELECT ${target} FROM generate_series(${from}::bigint, ${to}) i`,
    );
  },

  async openWriter() {
    return {
      write: (on, target) => on(`INSERT INTO ${SCHEMA}.pending_file_cleanup (target) VALUES ($1)`, [target]),
      end: async () => {},
    };
  },

  async clear(db) {
    const tables = ['pending', 'running', 'done', 'dead'].map(state => `${SCHEMA}.${state}_file_cleanup`);
    await db.sql(`TRUNCATE ${tables.join()}`);
  },

  async unsettled(db, ids) {
    const rows = await db.sql<{ id: string }>(
      `SELECT id FROM ${SCHEMA}.running_file_cleanup WHERE id = ANY ($1::bigint[])
       UNION ALL SELECT id FROM ${SCHEMA}.pending_file_cleanup WHERE id = ANY ($1::bigint[])`,
      [ids],
    );
    return rows.map(row => row.id);
  },

  async left(db) {
    const [row] = await db.sql<{ n: number }>(
      `SELECT (SELECT count(*) FROM ${SCHEMA}.pending_file_cleanup)::int
            + (SELECT count(*) FROM ${SCHEMA}.running_file_cleanup)::int AS n`,
    );
    return row?.n ?? 0;
  },

  async load(order, observer) {
    // The built one, which is what users run.
    const built = new URL('../../dist/index.js', import.meta.url).href;
    const { createFileHandler, createReconciler } = (await import(
      built
    )) as typeof import('../../src/index.ts');
    const reconciler = createReconciler({
      databaseUrl: order.url,
      roots: [order.root],
      handlers: [observed(order.work === 'files' ? createFileHandler() : schemeOf(order), observer)],
      ...order.settings,
    });
    reconciler.events.on('trouble', trouble => console.error(trouble));
    return async () => {
      await reconciler.start();
      return () => reconciler.stop();
    };
  },
};

/** A handler that does nothing. */
function schemeOf({ root }: Order): Handler {
  return {
    scheme: root.slice(0, root.indexOf('://')),
    batchSize: 1_000,
    delete: async batch => batch.map(() => ({ outcome: 'deleted', objects: 1, bytes: null })),
    inspect: async () => ({ exists: true, objects: 1, bytes: null }),
    probe: async () => {},
  };
}

function observed(handler: Handler, observer: Observer): Handler {
  return {
    ...handler,
    async delete(batch, context) {
      observer.begun(batch.map(({ target }) => target.text));
      const results = await handler.delete(batch, context);
      observer.handled(batch.map(({ id }) => id));
      return results;
    },
  };
}
