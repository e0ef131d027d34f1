/** What PostgreSQL's error codes mean for the outbox. Source: PostgreSQL documentation, appendix A. */

interface DatabaseError extends Error {
  readonly code: string;
}

function codeOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string'
    ? (error as DatabaseError).code
    : undefined;
}

/** `lock_not_available`: a lock was not granted within `lock_timeout`. */
export function isLockTimeout(error: unknown): boolean {
  return codeOf(error) === '55P03';
}

/** Raised by the claim functions: the worker has been taken for vanished. */
export function isLeaseLost(error: unknown): boolean {
  return codeOf(error) === 'AD001';
}

/** Raised by the guard: the transaction's snapshot would be older than its locks. */
export function isWrongIsolation(error: unknown): boolean {
  return codeOf(error) === 'AD002';
}

/** Raised by the guard: another server has given the claim, or this one before it was restarted. */
export function isClaimOfAnotherServer(error: unknown): boolean {
  return codeOf(error) === 'AD003';
}

/** `object_not_in_prerequisite_state`: our functions raise it for a row that is not in a state for what was asked. */
export function isWrongState(error: unknown): boolean {
  return codeOf(error) === '55000';
}

/** `read_only_sql_transaction`: a standby, or a session, database or server that was made read-only. */
export function isReadOnly(error: unknown): boolean {
  return codeOf(error) === '25006';
}

/** Class 22 (data exception) and 23 (integrity violation): some row of the statement is at fault, not the moment. */
export function isDataError(error: unknown): boolean {
  const code = codeOf(error);
  return code !== undefined && /^2[23]...$/.test(code);
}

/** The schema is not the one this program was written for: undefined table, column or function, invalid schema. */
export function isSchemaError(error: unknown): boolean {
  return ['42P01', '42703', '42883', '3F000'].includes(codeOf(error) ?? '');
}
