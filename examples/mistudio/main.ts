/** miStudio's clean-up scripts: see README.md. */
import { parseArgs } from 'node:util';
import pg from 'pg';
import {
  type Deletion,
  deleteCheckpoint,
  deleteDataset,
  deleteTraining,
  keepNewestCheckpoints,
  type Studio,
} from './service.ts';

const USAGE = `Usage: main.ts delete-training ID
       main.ts delete-dataset ID
       main.ts delete-checkpoint ID
       main.ts cleanup-checkpoints TRAINING --keep N

Environment: DATABASE_URL; MISTUDIO_DATA, the directory of all data (default: /data).`;

class UsageError extends Error {}

/** What is to be done; throws before anything has been connected to. */
function command(args: readonly string[]): (studio: Studio) => Promise<Deletion> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: { keep: { type: 'string' } },
  });
  const [name, id, ...rest] = positionals;
  if (id === undefined || rest.length > 0) throw new UsageError(`expected a command and one ID\n\n${USAGE}`);
  switch (name) {
    case 'delete-training':
      return studio => deleteTraining(studio, id);
    case 'delete-dataset':
      return studio => deleteDataset(studio, id);
    case 'delete-checkpoint':
      return studio => deleteCheckpoint(studio, id);
    case 'cleanup-checkpoints':
      if (values.keep === undefined) throw new UsageError(`expected --keep N\n\n${USAGE}`);
      return studio => keepNewestCheckpoints(studio, id, Number(values.keep));
    default:
      throw new UsageError(`unknown command ${name}\n\n${USAGE}`);
  }
}

try {
  const run = command(process.argv.slice(2));
  const { DATABASE_URL, MISTUDIO_DATA = '/data' } = process.env;
  if (DATABASE_URL === undefined)
    throw new UsageError('DATABASE_URL: expected a connection string, got nothing');
  const pool = new pg.Pool({ connectionString: DATABASE_URL, max: 1 });
  try {
    const { deleted, targets, source } = await run({ pool, data: MISTUDIO_DATA });
    console.log(`${source}: ${deleted} records deleted, ${targets.length} cleanups enqueued`);
  } finally {
    await pool.end();
  }
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
