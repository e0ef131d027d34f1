/** miStudio's clean-up scripts: see README.md. */
import { parseArgs } from 'node:util';
import pg from 'pg';
import {
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

Environment: DATABASE_URL.`;

class UsageError extends Error {}

const DELETIONS = new Map([
  ['delete-training', deleteTraining],
  ['delete-dataset', deleteDataset],
  ['delete-checkpoint', deleteCheckpoint],
]);

/** What is to be done; throws before anything has been connected to. It returns how many records were deleted. */
function command(args: readonly string[]): (studio: Studio) => Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: { keep: { type: 'string' } },
  });
  const [name = '', id, ...rest] = positionals;
  if (id === undefined || rest.length > 0) throw new UsageError(`expected a command and one ID\n\n${USAGE}`);
  if (name === 'cleanup-checkpoints') {
    if (values.keep === undefined) throw new UsageError(`expected --keep N\n\n${USAGE}`);
    return studio => keepNewestCheckpoints(studio, id, Number(values.keep));
  }
  const deletion = DELETIONS.get(name);
  if (deletion === undefined) throw new UsageError(`unknown command ${name}\n\n${USAGE}`);
  return async studio => {
    await deletion(studio, id);
    return 1;
  };
}

try {
  const args = process.argv.slice(2);
  const run = command(args);
  const { DATABASE_URL } = process.env;
  if (DATABASE_URL === undefined)
    throw new UsageError('DATABASE_URL: expected a connection string, got nothing');
  const pool = new pg.Pool({ connectionString: DATABASE_URL, max: 1 });
  const actor = args.join(' ');
  try {
    console.log(`${actor}: ${await run({ pool, actor })} deleted`);
  } finally {
    await pool.end();
  }
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
