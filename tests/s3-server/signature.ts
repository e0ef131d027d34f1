/**
 * AWS Signature Version 4 in the Authorization header, as a server checks it: the request, the hash of its payload,
 * and the checksums that come with it. A client that signs one thing and sends another is found out.
 */
import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { crc32 } from 'node:zlib';
import { S3Error } from './errors.ts';

export interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

export interface SignedRequest {
  readonly method: string;
  /** Path and query, as they came. */
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
  /** The body as it came, chunk signatures and trailers included. */
  readonly body: Buffer;
}

const AUTHORIZATION =
  /^AWS4-HMAC-SHA256 Credential=([^/,]+)\/(\d{8})\/([^/,]+)\/s3\/aws4_request,\s*SignedHeaders=([^,]+),\s*Signature=([0-9a-f]{64})$/;
/** Not `x-amz-checksum-mode` and its like, which carry no sum. */
const CHECKSUM = /^x-amz-checksum-(crc32|crc32c|crc64nvme|sha1|sha256)$/;
const CLOCK_SKEW_MS = 15 * 60_000;
const ALGORITHMS: Readonly<Record<string, (body: Buffer) => string>> = {
  crc32: body => {
    const value = Buffer.alloc(4);
    value.writeUInt32BE(crc32(body));
    return value.toString('base64');
  },
  sha1: body => createHash('sha1').update(body).digest('base64'),
  sha256: body => createHash('sha256').update(body).digest('base64'),
};

const sha256 = (data: string | Buffer) => createHash('sha256').update(data).digest('hex');
const hmac = (key: string | Buffer, data: string) => createHmac('sha256', key).update(data).digest();
const header = (headers: IncomingHttpHeaders, name: string) => String(headers[name] ?? '');

/** What AWS calls UriEncode: everything but unreserved characters, in upper-case hexadecimal. */
export function uriEncode(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, c => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
}

/** Name and value of each query parameter, decoded. */
export function queryOf(url: string): [string, string][] {
  const at = url.indexOf('?');
  if (at < 0) return [];
  return url
    .slice(at + 1)
    .split('&')
    .filter(pair => pair !== '')
    .map(pair => {
      const [name = '', ...value] = pair.split('=');
      return [decode(name, true), decode(value.join('='), true)];
    });
}

/** Decodes percent encoding; in a query `+` is a space, in a path it is itself. */
export function decode(text: string, plusIsSpace: boolean): string {
  try {
    return decodeURIComponent(plusIsSpace ? text.replaceAll('+', ' ') : text);
  } catch {
    throw new S3Error('InvalidArgument', `not percent-encoded UTF-8: ${text}`);
  }
}

/**
 * Checks who asks, what they signed, and that the payload is what they signed.
 * @throws S3Error as S3 answers it: AccessDenied, InvalidAccessKeyId, SignatureDoesNotMatch, ...
 */
export function verifySignature(request: SignedRequest, credentials: Credentials): void {
  const { headers, method, url, body } = request;
  const authorization = AUTHORIZATION.exec(header(headers, 'authorization'));
  if (!authorization) throw new S3Error('AccessDenied', 'the request is not signed with Signature Version 4');
  const [, accessKeyId, day = '', region = '', signedHeaders = '', signature = ''] = authorization;
  if (accessKeyId !== credentials.accessKeyId) {
    throw new S3Error(
      'InvalidAccessKeyId',
      'The AWS Access Key Id you provided does not exist in our records.',
    );
  }
  const date = header(headers, 'x-amz-date');
  const time = Date.parse(date.replace(/^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/, '$1-$2-$3T$4:$5:$6Z'));
  if (!(Math.abs(Date.now() - time) <= CLOCK_SKEW_MS)) {
    throw new S3Error('RequestTimeTooSkewed', `The difference between ${date} and now is too large.`);
  }
  const names = signedHeaders.split(';');
  for (const name of Object.keys(headers)) {
    if ((name === 'host' || name.startsWith('x-amz-')) && !names.includes(name)) {
      throw new S3Error('AccessDenied', `There were headers present which were not signed: ${name}`);
    }
  }
  const payloadHash = header(headers, 'x-amz-content-sha256');
  const path = url.split('?', 1)[0] ?? '';
  const canonical = [
    method,
    path
      .split('/')
      .map(segment => uriEncode(decode(segment, false)))
      .join('/'),
    queryOf(url)
      .map(([name, value]) => [uriEncode(name), uriEncode(value)] as const)
      .sort(([a, x], [b, y]) => (a < b || (a === b && x < y) ? -1 : 1))
      .map(pair => pair.join('='))
      .join('&'),
    ...names.map(name => `${name}:${header(headers, name).trim().replace(/ +/g, ' ')}`),
    '',
    signedHeaders,
    payloadHash,
  ].join('\n');
  const scope = `${day}/${region}/s3/aws4_request`;
  const toSign = ['AWS4-HMAC-SHA256', date, scope, sha256(canonical)].join('\n');
  const key = [day, region, 's3', 'aws4_request'].reduce<string | Buffer>(
    (secret, part) => hmac(secret, part),
    `AWS4${credentials.secretAccessKey}`,
  );
  if (!timingSafeEqual(hmac(key, toSign), Buffer.from(signature, 'hex'))) {
    throw new S3Error(
      'SignatureDoesNotMatch',
      'The request signature we calculated does not match the signature you provided. Check your key and signing method.',
    );
  }
  if (/^[0-9a-f]{64}$/.test(payloadHash) && sha256(body) !== payloadHash) {
    throw new S3Error(
      'XAmzContentSHA256Mismatch',
      "The provided 'x-amz-content-sha256' header does not match what was computed.",
    );
  }
}

/**
 * The body that was meant: taken out of its aws-chunked form if need be, every checksum that came with it verified.
 * @returns whether there was any checksum, beside the body: DeleteObjects demands one.
 */
export function decodeBody({ headers, body }: Pick<SignedRequest, 'headers' | 'body'>): {
  body: Buffer;
  checked: boolean;
} {
  const form = header(headers, 'x-amz-content-sha256');
  const sums = new Map<string, string>();
  for (const [name, value] of Object.entries(headers)) {
    if (CHECKSUM.test(name)) sums.set(name, String(value));
  }
  let payload = body;
  if (form === 'STREAMING-UNSIGNED-PAYLOAD-TRAILER') payload = decodeChunks(body, sums);
  else if (form.startsWith('STREAMING-')) {
    throw new S3Error('NotImplemented', `payloads of the form ${form} are not implemented`);
  }
  const length = headers['x-amz-decoded-content-length'];
  if (length !== undefined && Number(length) !== payload.length) {
    throw new S3Error('IncompleteBody', `${length} bytes were announced, ${payload.length} came`);
  }
  for (const [name, sum] of sums) {
    const algorithm = ALGORITHMS[name.slice('x-amz-checksum-'.length)];
    if (!algorithm) throw new S3Error('NotImplemented', `${name} is not implemented`);
    if (algorithm(payload) !== sum) {
      throw new S3Error('BadDigest', `The ${name} you specified did not match the calculated checksum.`);
    }
  }
  const md5 = headers['content-md5'];
  if (md5 !== undefined && createHash('md5').update(payload).digest('base64') !== md5) {
    throw new S3Error('BadDigest', 'The Content-MD5 you specified did not match what we received.');
  }
  return { body: payload, checked: sums.size > 0 || md5 !== undefined };
}

/** Takes apart `SIZE CRLF DATA CRLF … 0 CRLF TRAILERS CRLF`; the trailers are added to the checksums. */
function decodeChunks(body: Buffer, sums: Map<string, string>): Buffer {
  const chunks: Buffer[] = [];
  let at = 0;
  const line = () => {
    const end = body.indexOf('\r\n', at);
    if (end < 0) throw new S3Error('IncompleteBody', 'the chunked body ends too early');
    const text = body.toString('latin1', at, end);
    at = end + 2;
    return text;
  };
  for (;;) {
    const size = Number.parseInt(line(), 16);
    if (!Number.isInteger(size)) throw new S3Error('InvalidRequest', 'a chunk has no size');
    if (size === 0) break;
    chunks.push(body.subarray(at, at + size));
    at += size;
    if (line() !== '') throw new S3Error('InvalidRequest', 'a chunk is longer than its size');
  }
  while (at < body.length) {
    const [name = '', ...value] = line().split(':');
    if (CHECKSUM.test(name)) sums.set(name, value.join(':').trim());
  }
  return Buffer.concat(chunks);
}
