/** What all commands have in common: their settings, their exit code, and a database for the time of the command. */
import type { Command } from 'commander';
import { type Config, type LoadOptions, loadConfig, type Settings } from '../config.ts';
import { type Database, openDatabase } from '../outbox/database.ts';
import { assertSchema } from '../outbox/migrate.ts';
import { named } from './failure.ts';

/** Lets a command's function decide the exit code. */
export function action<A extends unknown[]>(
  run: (...given: A) => Promise<number>,
): (...given: A) => Promise<void> {
  return async (...given) => {
    process.exitCode = await run(...given);
  };
}

/** The settings as the environment and the file of `--config` say. @throws ConfigError */
export function settingsOf(
  command: Command,
  needs?: Omit<LoadOptions, 'env' | 'configPath' | 'requireDatabase'> & { readonly requireDatabase?: true },
): Config;
export function settingsOf(command: Command, needs: Omit<LoadOptions, 'env' | 'configPath'>): Settings;
export function settingsOf(command: Command, needs: Omit<LoadOptions, 'env' | 'configPath'> = {}): Settings {
  const { config } = command.optsWithGlobals<{ config?: string }>();
  return loadConfig({ env: process.env, configPath: config, ...needs });
}

/**
 * Runs something with the database, whose schema must be of this version, and lets go of it afterwards.
 * @throws Failure that says where the database is when it cannot be reached.
 */
export async function withDatabase<T>(
  { databaseUrl }: Pick<Config, 'databaseUrl'>,
  name: string,
  work: (db: Database) => Promise<T>,
): Promise<T> {
  const db = openDatabase(databaseUrl, {
    applicationName: `afterdelete ${name}`,
    max: 2,
    queryTimeout: 60_000,
  });
  try {
    await assertSchema(db);
    return await work(db);
  } catch (error) {
    throw named(error, databaseUrl);
  } finally {
    await db.destroy();
  }
}

/** Writes lines to standard output. */
export function print(...lines: string[]): void {
  process.stdout.write(`${lines.join('\n')}\n`);
}
