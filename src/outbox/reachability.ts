/** Why the database could not be reached, in words a person can act on; and whether waiting may help. */
import pg from 'pg';

/**
 * `unreachable`: it does not answer, or not yet; it may by itself. `refused`: it answered, and does not let us in as we
 * are configured.
 */
export interface ConnectionProblem {
  readonly kind: 'unreachable' | 'refused';
  /** Names host and port, never the password. */
  readonly message: string;
}

/** Errors of the operating system: nothing answered. */
const NETWORK = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENETDOWN',
  'ENOTFOUND',
  'EAI_AGAIN',
]);

/** What pg and its pool throw without a code. */
const SILENCE =
  /connection terminated|timeout expired|timeout exceeded when trying to connect|client has encountered a connection error/i;
const NO_ANSWER = /query read timeout/i;

/** Class 08 (connection exception), too many connections, and a server that starts, stops or recovers. */
const UNAVAILABLE = /^(08...|53300|57P0[1235])$/;

/** PgBouncer answers with a protocol violation (08P01) where PostgreSQL has codes of its own. */
const POOLER_REFUSES = /no such (database|user)|authentication failed|wrong password|not allowed/i;

/** Class 28 (invalid authorization), no such database, and no right to connect to it. */
const REFUSED = /^(28...|3D000)$/;

/** Whether there was no server, or none that takes connections: not one that was asked and did not answer in time. */
export function isAway(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const code = 'code' in error && typeof error.code === 'string' ? error.code : '';
  // A Unix socket that is not there: ENOENT, which is said of files too.
  const noSocket = code === 'ENOENT' && 'syscall' in error && error.syscall === 'connect';
  return noSocket || NETWORK.has(code) || UNAVAILABLE.test(code) || SILENCE.test(error.message);
}

/** What the failure says about the connection; undefined when it says nothing about it. */
export function connectionProblem(error: unknown, url: string): ConnectionProblem | undefined {
  if (!(error instanceof Error)) return undefined;
  const { place, user, database } = describe(url);
  const code = 'code' in error && typeof error.code === 'string' ? error.code : '';
  const said = reasonOf(error);
  const refused = (hint: string): ConnectionProblem => ({
    kind: 'refused',
    message: `the database at ${place} does not let us in: ${said}. ${hint}`,
  });
  if (code === '3D000') return refused(`Is the database's name right (${database})? It must exist already`);
  if (REFUSED.test(code) || (code === '08P01' && POOLER_REFUSES.test(error.message))) {
    return refused(`Are user (${user}), password and pg_hba.conf right?`);
  }
  if (/SSL|SASL|certificate/i.test(error.message) && !(error instanceof pg.DatabaseError)) {
    return refused('Are the password and the sslmode of the connection string right?');
  }
  if (!isAway(error) && !NO_ANSWER.test(error.message)) return undefined;
  const hint = UNAVAILABLE.test(code)
    ? 'It answers, but takes no connections now'
    : 'Is it running, and can it be reached from here? Check host and port of DATABASE_URL (and AFTERDELETE_LISTEN_URL)';
  return { kind: 'unreachable', message: `the database at ${place} cannot be reached: ${said}. ${hint}` };
}

/** Where a connection string leads, with what PGHOST and the like fill in. */
function describe(url: string): { place: string; user: string; database: string } {
  const { host, port, user = '', database = '' } = new pg.Client({ connectionString: url });
  return { place: `${host.includes(':') ? `[${host}]` : host}:${port}`, user, database };
}

/** A name with several addresses fails with an error for each, and a message of its own that is empty. */
function reasonOf(error: Error): string {
  if (error instanceof AggregateError && error.message === '') {
    return [...new Set(error.errors.map(each => (each instanceof Error ? each.message : String(each))))].join(
      ', ',
    );
  }
  return error.message;
}
