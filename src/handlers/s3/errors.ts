/**
 * What S3's errors mean: the one place that knows codes, statuses and the SDK's exceptions. By code first, because
 * servers agree on those more than on statuses; by status where there is no code, as in every answer to a HEAD.
 */
import { Stopped, StorageError, type StorageErrorKind } from '../contract.ts';

/** What an error means for the request, or the key, that it came for. */
export interface Meaning {
  /**
   * `gone`: there is nothing to delete, which is success. `replaced`: something else stands there by now, and stays.
   * `slow`: too much at once; the store is there, and asks for less. `no_batch`: DeleteObjects is what the server
   * lacks. `other_checksum`: the server wants another checksum than the one it was sent.
   */
  readonly kind: StorageErrorKind | 'gone' | 'replaced' | 'slow' | 'no_batch' | 'other_checksum';
  /**
   * Whether another key would have met the same: the bucket, the credentials, the endpoint are at fault. Where not, one
   * key may have spoiled the request for all others in it.
   */
  readonly everyKey: boolean;
  readonly advice?: string;
  /** What may be mended at once, after which the same request may succeed: see `S3Bucket`. */
  readonly mend?: 'credentials' | 'clock';
}

const meaning = (kind: Meaning['kind'], everyKey: boolean, advice?: string): Meaning =>
  advice === undefined ? { kind, everyKey } : { kind, everyKey, advice };
const all = (kind: Meaning['kind'], codes: string, everyKey: boolean, advice?: string) =>
  codes.split(' ').map(code => [code, meaning(kind, everyKey, advice)] as const);

const CREDENTIALS =
  "check the root's `credentials`, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, against the server's";

/** Of the request as a whole; of a key, `unavailable` is `transient`: the server did answer. */
const CODES: ReadonlyMap<string, Meaning> = new Map([
  ...all('gone', 'NoSuchKey NoSuchVersion NoSuchUpload', false),
  ...all('replaced', 'PreconditionFailed', false),
  ...all(
    'slow',
    'SlowDown SlowDownRead SlowDownWrite Throttling ThrottlingException RequestLimitExceeded TooManyRequests',
    true,
  ),
  ...all(
    'transient',
    'RequestTimeout OperationAborted ConditionalRequestConflict BadDigest IncompleteBody XAmzContentSHA256Mismatch',
    true,
  ),
  ...all('unavailable', 'InternalError ServiceUnavailable ServerBusy XMinioServerNotInitialized', true),
  ...all(
    'permanent',
    'AccessDenied AllAccessDisabled AccountProblem',
    false,
    'grant the credentials s3:DeleteObject, s3:ListBucket and s3:AbortMultipartUpload; where they are granted, an object lock or a bucket policy refuses',
  ),
  ...all('permanent', 'NoSuchBucket', true, "check the bucket's name and the endpoint"),
  // Who asks, from where and with what clock is the daemon's own fault, which no row should die of: the store pauses.
  // They may have been replaced since they were read: those that expire, and those that somebody rotates.
  ...[
    'ExpiredToken',
    'ExpiredTokenException',
    'TokenRefreshRequired',
    'InvalidAccessKeyId',
    'SignatureDoesNotMatch',
    'InvalidToken',
  ].map(code => [code, { ...meaning('unavailable', true, CREDENTIALS), mend: 'credentials' }] as const),
  [
    'RequestTimeTooSkewed',
    { ...meaning('unavailable', true, "set this machine's clock right"), mend: 'clock' },
  ],
  ...all(
    'unavailable',
    'AuthorizationHeaderMalformed PermanentRedirect TemporaryRedirect IllegalLocationConstraintException',
    true,
    "set the root's `region` (or AWS_REGION) to the bucket's region",
  ),
  ...all(
    'permanent',
    'MethodNotAllowed',
    true,
    'this endpoint allows no deletes; where only DeleteObjects is refused, set `deleteMode: single`',
  ),
  ...all('permanent', 'InvalidBucketName', true, "check the bucket's name"),
  ...all('no_batch', 'NotImplemented XNotImplemented', true),
  ...all('other_checksum', 'MissingContentMD5 MissingContentMd5', true),
  ...all(
    'permanent',
    'InvalidRequest InvalidArgument MalformedXML KeyTooLongError KeyTooLong XMinioInvalidObjectName InvalidObjectName',
    false,
  ),
  ...all('permanent', 'ObjectLocked InvalidObjectState InvalidURI', false),
]);

/** How servers refuse a checksum under a code that means other things as well. */
const CHECKSUM_REFUSED: ReadonlyMap<string, RegExp> = new Map([
  ['InvalidRequest', /content-md5|checksum/i],
  ['InvalidArgument', /unsupported header|content-md5|checksum/i],
]);

function meaningOfCode(code: string | undefined, message: string): Meaning | undefined {
  if (code === undefined) return undefined;
  return CHECKSUM_REFUSED.get(code)?.test(message) ? meaning('other_checksum', true) : CODES.get(code);
}

/** What the SDK calls an error that the server gave no code for. They say no more than the status does. */
const NO_CODE = /^(Unknown|UnknownError|NotFound|Forbidden|BadRequest|Error|SyntaxError|\d{3})$/;

/** What an error in the answer for one key means; a code that nobody knows may be gone next time. */
export function meaningOfKeyError(code: string): Meaning {
  const known = CODES.get(code);
  if (!known) return meaning('transient', false);
  if (known.kind === 'unavailable') return { ...known, kind: 'transient' };
  return known.kind === 'no_batch' || known.kind === 'other_checksum'
    ? { ...known, kind: 'permanent' }
    : known;
}

/** What came back when a request failed. */
export interface Failure extends Meaning {
  readonly code: string | undefined;
  readonly status: number | undefined;
  readonly message: string;
}

/** What an exception of the SDK means. */
export function failureOf(error: unknown): Failure {
  const { name, message, code: own, status } = partsOf(error);
  const code = [own, name].find(text => text !== undefined && CODES.has(text)) ?? own;
  const known = meaningOfCode(code, message);
  const answered = { code: known || status !== undefined ? code : undefined, status, message };
  if (known) return { ...answered, ...known };
  if (name === 'CredentialsProviderError' || name === 'TokenProviderError') {
    const advice =
      "give the root `credentials`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or the machine's role";
    // Nothing was asked yet, so no row is at fault; a metadata service may be back in a minute.
    return { ...answered, ...meaning('unavailable', true, advice) };
  }
  // No status means no answer: refused, reset, unknown host, bad certificate, timed out.
  if (status === undefined && isOfTheNetwork(error)) return { ...answered, ...meaning('unavailable', true) };
  return { ...answered, ...meaningOfStatus(status, code) };
}

/** Errors of sockets, names and certificates have a `code`; time limits and aborts have a name. */
function isOfTheNetwork(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  return ('code' in error && typeof error.code === 'string') || /^(Abort|Timeout)/.test(error.name);
}

function meaningOfStatus(status: number | undefined, code: string | undefined): Meaning {
  if (status === undefined) return meaning('transient', false);
  if (status >= 500) return status === 501 ? meaning('no_batch', true) : meaning('unavailable', true);
  if (status === 429) return meaning('slow', true);
  if (status === 408 || status === 409) return meaning('transient', true);
  if (status === 412) return meaning('replaced', false);
  // S3 names what is wrong. What does not is a proxy, a console, a server that is only starting: not the row's fault.
  const stranger = 'the answer is not that of S3: check the endpoint, and any proxy in between';
  if (code === undefined && (status < 300 || status === 404)) return meaning('unavailable', true, stranger);
  if (status >= 300 && status < 400) {
    return meaning('unavailable', true, "set the root's `region` and `endpoint` to the bucket's");
  }
  if (status === 401 || status === 403) return meaning('unavailable', true, CREDENTIALS);
  if (status === 405) return meaning('permanent', true, 'this endpoint does not allow the operation');
  return meaning('transient', false);
}

function partsOf(error: unknown): {
  name: string;
  message: string;
  code: string | undefined;
  status: number | undefined;
} {
  if (!(error instanceof Error))
    return { name: '', message: String(error), code: undefined, status: undefined };
  const { $metadata, Code, code } = error as Error & {
    readonly $metadata?: { readonly httpStatusCode?: number };
    readonly Code?: unknown;
    readonly code?: unknown;
  };
  const status = $metadata?.httpStatusCode;
  const given =
    typeof Code === 'string' && Code !== '' ? Code : NO_CODE.test(error.name) ? undefined : error.name;
  // Trying IPv6 and IPv4 makes one error of several, with no message of its own.
  const first = error instanceof AggregateError ? error.errors[0] : undefined;
  const [message = ''] = (
    error.message || (first instanceof Error ? first.message : String(code ?? ''))
  ).split('\n  Deserialization error');
  return { name: error.name, message: message === 'UnknownError' ? '' : message, code: given, status };
}

/** The failure of a request as an error for people: what was tried and where, what came back, what to do. */
export function storageErrorOf(error: unknown, attempted: string): StorageError | Stopped {
  if (error instanceof StorageError || error instanceof Stopped) return error;
  const failure = failureOf(error);
  return new StorageError(KINDS[failure.kind], messageOf(attempted, failure), { cause: error });
}

/** The failure of one key as an error for people. */
export function keyError(code: string, message: string, attempted: string): StorageError {
  const { kind, advice } = meaningOfKeyError(code);
  const failure = { code, status: undefined, message, ...(advice === undefined ? {} : { advice }) };
  return new StorageError(KINDS[kind], messageOf(attempted, failure));
}

/** Only a delete is told "gone" or "replaced", and only DeleteObjects that it lacks something; elsewhere it makes no sense. */
const KINDS: Readonly<Record<Meaning['kind'], StorageErrorKind>> = {
  transient: 'transient',
  blocked: 'blocked',
  permanent: 'permanent',
  unavailable: 'unavailable',
  wrong_root: 'wrong_root',
  gone: 'transient',
  replaced: 'transient',
  // Too much at once is never a row's own fault: no attempt is counted for it.
  slow: 'blocked',
  no_batch: 'permanent',
  other_checksum: 'permanent',
};

function messageOf(
  attempted: string,
  { code, status, message, advice }: Pick<Failure, 'code' | 'status' | 'message' | 'advice'>,
): string {
  const http = status === undefined ? '' : `HTTP ${status}`;
  const what = code === undefined ? http : http === '' ? code : `${code} (${http})`;
  const said = plain(message);
  const came = [what, said === code ? '' : said].filter(part => part !== '').join(': ');
  return `${attempted}: ${came || 'no reason was given'}${advice === undefined ? '' : `; ${advice}`}`;
}

/** A server's words as they may stand in a log: one line, no control characters, not endless. */
function plain(text: string): string {
  const line = text.replace(/[\p{Cc}\s]+/gu, ' ').trim();
  return line.length > 300 ? `${line.slice(0, 300)}…` : line;
}
