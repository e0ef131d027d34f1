/** Takes credentials out of what people will read: log lines, error messages, answers over HTTP. */

const MASK = '***';

/** Names of fields whose values are never shown, wherever they stand. */
const SECRET_FIELD =
  /passw(?:or)?d|passphrase|secret|token|credential|authorization|signature|access_?key_?id/i;

/** Whether a text can hold anything that `redact` or `redactDeep` would take out: cheap, asked of every log line. */
const SUSPICIOUS = new RegExp(`@|x-amz-|${SECRET_FIELD.source}`, 'i');

// A password of a PostgreSQL URL may hold slashes, and spaces: pg encodes those by itself. Up to the last `@` then.
const POSTGRES_URL = /(\bpostgres(?:ql)?:\/\/[^\s:@/]*):(?:\S*|[^\n/]*?)@/gi;
// No scheme is longer than that: without a bound, a target of `a.a.a…` would take quadratic time, and every log line waits.
const OTHER_URL = /(\b[a-z][a-z0-9+.-]{0,30}:\/\/[^\s:@/]*):[^\s/]*@/gi;
const PARAMETER =
  /(^|[?&;\s])((?:ssl)?password|x-amz-(?:signature|security-token|credential))=(?:'[^']*'|[^&\s'"]*)/gi;

/** The text with passwords in URLs and connection strings, and what signs a presigned URL, replaced by `***`. */
export function redact(text: string): string {
  return text
    .replace(POSTGRES_URL, `$1:${MASK}@`)
    .replace(OTHER_URL, `$1:${MASK}@`)
    .replace(PARAMETER, `$1$2=${MASK}`);
}

/** A value as JSON has them, with all its strings redacted and all fields masked that are named like a secret. */
export function redactDeep(value: unknown): unknown {
  if (typeof value === 'string') return redact(value);
  if (Array.isArray(value)) return value.map(redactDeep);
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, field]) => [
      name,
      SECRET_FIELD.test(name) && field !== null ? MASK : redactDeep(field),
    ]),
  );
}

/** A line of JSON, redacted; other lines as text. */
export function redactLine(line: string): string {
  if (!SUSPICIOUS.test(line)) return line;
  try {
    return `${JSON.stringify(redactDeep(JSON.parse(line)))}\n`;
  } catch {
    return redact(line);
  }
}

/**
 * A text that should be a connection string and is none, for a message: scheme, user, host and path at most. Without
 * a scheme it may be anything, even the bare password, and nothing of it is shown.
 */
export function redactConnectionString(text: string): string {
  const [, scheme, rest] = /^([a-z][a-z0-9+.-]*:\/\/)(.*)$/is.exec(text) ?? [];
  if (scheme === undefined || rest === undefined) return 'a text without a scheme (not shown)';
  const at = rest.lastIndexOf('@');
  const [user = ''] = rest.slice(0, Math.max(at, 0)).split(/[:?]/, 1);
  const password = at > user.length ? `:${MASK}` : '';
  const [place = ''] = rest.slice(at + 1).split('?', 1);
  return JSON.stringify(`${scheme}${user}${password}${at < 0 ? '' : '@'}${place}`);
}
