import pg from 'pg';
import { describe, expect, it, onTestFinished } from 'vitest';
import {
  confirm,
  createFileHandler,
  createReconciler,
  enqueue,
  type Handler,
  InvalidTargetError,
  migrate,
  type Result,
} from '../src/index.ts';
import { createDatabase } from './support/database.ts';
import { createDisk } from './support/disk.ts';
import { countEvents } from './support/reconciler.ts';

/** A handler as a user would write it, for a scheme of their own. */
function createGsHandler(objects: Set<string>): Handler {
  return {
    scheme: 'gs',
    batchSize: 100,
    delete: async (batch, context) =>
      await Promise.all(
        batch.map(({ target }) =>
          context.call(async (): Promise<Result> => {
            const gone = objects.delete(target.path);
            return gone
              ? { outcome: 'deleted', objects: 1, bytes: null }
              : { outcome: 'absent', objects: 0, bytes: null };
          }),
        ),
      ),
    inspect: async ({ target }) => ({ exists: objects.has(target.path), objects: 1, bytes: null }),
    probe: async () => {},
  };
}

describe('the library', () => {
  it('is a daemon inside a program, with a handler of its own', async () => {
    const db = await createDatabase({ empty: true });
    await migrate(db.url);
    const disk = createDisk();
    const objects = new Set(['a', 'kept']);
    const reconciler = createReconciler({
      databaseUrl: db.url,
      roots: ['gs://bucket/', disk.root],
      handlers: [createFileHandler(), createGsHandler(objects)],
    });
    onTestFinished(() => reconciler.stop());
    const done = countEvents(reconciler, 'cleanup_done', 3);
    await reconciler.start();

    const client = new pg.Client({ connectionString: db.url });
    await client.connect();
    onTestFinished(() => client.end());
    await client.query('BEGIN');
    const ids = await enqueue(client, ['gs://bucket/a', 'gs://bucket/b'], { source: 'test' });
    const reservation = await enqueue(client, 'gs://bucket/kept', { delay: '1 hour' });
    await enqueue(client, disk.write('file'));
    await confirm(client, reservation);
    await client.query('COMMIT');
    await done;

    expect(ids).toEqual(['1', '2']);
    expect([...objects]).toEqual(['kept']);
    expect(await db.sql('SELECT id::int, outcome FROM afterdelete.done_file_cleanup ORDER BY id')).toEqual([
      { id: 1, outcome: 'deleted' },
      { id: 2, outcome: 'absent' },
      { id: 3, outcome: 'discarded' },
      { id: 4, outcome: 'deleted' },
    ]);
  });

  it('refuses what is no target before anything is written', async () => {
    const writer = { query: async () => Promise.reject(new Error('nothing may be written')) };
    await expect(enqueue(writer, ['s3://bucket/a', 's3://bucket/../b'])).rejects.toThrow(InvalidTargetError);
  });
});
