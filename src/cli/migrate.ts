/** `afterdelete migrate`: brings the database to the schema of this version. */
import type { Command } from 'commander';
import { migrate, migrationScript } from '../outbox/migrate.ts';
import { action, print, settingsOf } from './command.ts';
import { type ExitCode, named } from './failure.ts';

export function addMigrate(program: Command): void {
  program
    .command('migrate')
    .description('Create or update the schema `afterdelete` in the database.')
    .option('--sql', 'print the SQL instead of running it, for teams whose DDL lives in their own migrations')
    .addHelpText(
      'after',
      `
Applies what is missing, in one transaction. Safe to run again, and from several
places at once. It needs the right to create a schema, but no superuser and no
extension. It connects to AFTERDELETE_LISTEN_URL if that is set (a direct
connection: poolers are no place for DDL), else to DATABASE_URL.

Examples:
  DATABASE_URL=postgres://owner@db/app afterdelete migrate
  afterdelete migrate --sql > migrations/0042_afterdelete.sql`,
    )
    .action(
      action(async ({ sql }: { sql?: true }, command: Command) =>
        sql === true ? printScript() : await applyMissing(command),
      ),
    );
}

function printScript(): ExitCode {
  process.stdout.write(migrationScript());
  return 0;
}

async function applyMissing(command: Command): Promise<ExitCode> {
  const { databaseUrl, listenUrl } = settingsOf(command, { requireRoots: false, requireDatabase: true });
  const url = listenUrl === 'off' ? databaseUrl : listenUrl;
  const waiting = (error: Error) =>
    process.stderr.write(`another session holds a lock (${error.message}): trying again\n`);
  try {
    const applied = await migrate(url, { onRetry: waiting });
    for (const name of applied) print(`applied ${name}`);
    print(applied.length === 0 ? 'nothing to do: the schema is up to date' : 'the schema is up to date');
    return 0;
  } catch (error) {
    throw named(error, url);
  }
}
