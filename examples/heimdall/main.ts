/** Heimdall's deletions from the command line: see README.md. */
import { randomUUID } from 'node:crypto';
import { parseArgs } from 'node:util';
import { Kysely, PostgresDialect } from 'kysely';
import pg from 'pg';
import type { Database } from './database.ts';
import { ApiError, deleteDataset, deleteJob, type Heimdall, readStatistics } from './service.ts';

const USAGE = `Usage: main.ts delete-dataset ID
       main.ts delete-job ID [--delete-dataset]
       main.ts statistics REQUEST_ID

Environment: DATABASE_URL.`;

/** What is to be done; throws before anything has been connected to. */
function command(args: readonly string[]): (heimdall: Heimdall) => Promise<unknown> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: { 'delete-dataset': { type: 'boolean', default: false } },
  });
  const [name, id, ...rest] = positionals;
  if (id === undefined || rest.length > 0) throw new Error(`expected a command and one ID\n\n${USAGE}`);
  if (name === 'statistics') return heimdall => readStatistics(heimdall, id);
  if (name === 'delete-dataset') return heimdall => deleteDataset(heimdall, id);
  if (name === 'delete-job') {
    return heimdall => deleteJob(heimdall, id, { deleteDataset: values['delete-dataset'] });
  }
  throw new Error(`unknown command ${name}\n\n${USAGE}`);
}

try {
  const run = command(process.argv.slice(2));
  const { DATABASE_URL } = process.env;
  if (DATABASE_URL === undefined) throw new Error('DATABASE_URL: expected a connection string, got nothing');
  const pool = new pg.Pool({ connectionString: DATABASE_URL, max: 1 });
  const db = new Kysely<Database>({ dialect: new PostgresDialect({ pool }) });
  try {
    const answer = await run({
      db,
      // An HTTP layer takes it from the request.
      requestId: randomUUID(),
      log: line => console.error(JSON.stringify(line)),
      // A real one revokes the task and waits for its end.
      stopWorker: async () => {},
    });
    // 204 has no body.
    if (answer !== undefined) console.log(JSON.stringify(answer, null, 2));
  } finally {
    await db.destroy();
  }
} catch (error) {
  console.error(
    error instanceof ApiError ? JSON.stringify(error.body) : error instanceof Error ? error.message : error,
  );
  process.exitCode = 1;
}
