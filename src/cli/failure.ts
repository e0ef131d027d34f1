/** How commands fail: one message for a person, and an exit code. No stack, and no credentials. */
import { CommanderError } from 'commander';
import { ConfigError } from '../config.ts';
import { StorageError } from '../handlers/contract.ts';
import { connectionProblem } from '../outbox/reachability.ts';
import { redact } from '../redact.ts';

/** 0: done. 1: failed. 2: wrong usage or configuration. */
export type ExitCode = 0 | 1 | 2;

/** A command failed, and its message says all there is to say. */
export class Failure extends Error {
  override readonly name = 'Failure';
}

/** The command cannot do what it was asked, whatever the database says. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

/** The failure is about the database that this connection string names: the message can say where it is. */
export class DatabaseFailure extends Error {
  override readonly name = 'DatabaseFailure';
}

/** What a failure of a database is called when it is about the connection; any other error is returned as it is. */
export function named(error: unknown, url: string): unknown {
  // Storages have connections and certificates too.
  const problem = error instanceof StorageError ? undefined : connectionProblem(error, url);
  return problem === undefined ? error : new DatabaseFailure(problem.message, { cause: error });
}

/** Tells a person what went wrong, on standard error; returns the exit code. */
export function report(error: unknown, env: NodeJS.ProcessEnv): ExitCode {
  // Commander has written its own message, or the help that was asked for.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  const lines = error instanceof ConfigError ? error.problems : [`error: ${messageOf(error)}`];
  for (const line of lines) process.stderr.write(`${redact(line)}\n`);
  if (/^(debug|trace)$/.test(env.AFTERDELETE_LOG_LEVEL ?? '') && error instanceof Error) {
    process.stderr.write(`${redact(stackOf(error))}\n`);
  }
  return error instanceof ConfigError || error instanceof UsageError ? 2 : 1;
}

function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return `something was thrown that is no Error: ${String(error)}`;
  const { code, hint } = error as { code?: unknown; hint?: unknown };
  // An error of PostgreSQL itself: its code can be looked up, and its hint is written for people.
  const coded = typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) ? ` (SQLSTATE ${code})` : '';
  const right =
    code === '42501'
      ? '. The role lacks a right: to migrate it needs GRANT CREATE ON DATABASE, for the rest see sql/optional/roles.sql'
      : '';
  const hinted = typeof hint === 'string' && coded !== '' ? `. ${hint}` : '';
  return `${error.message || error.name}${coded}${right}${hinted}`;
}

function stackOf(error: Error): string {
  const cause = error.cause instanceof Error ? `\ncaused by ${stackOf(error.cause)}` : '';
  return `${error.stack ?? error.message}${cause}`;
}
