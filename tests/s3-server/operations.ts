/** The operations: a request that is understood and verified in, an answer out. */
import { S3Error } from './errors.ts';
import type { Faults, RequestRecord } from './faults.ts';
import { decode, queryOf, uriEncode } from './signature.ts';
import type { Buckets, StoredObject } from './store.ts';
import { child, element, escapeXml, parseXml, type XmlElement, xmlDocument } from './xml.ts';

export interface Answer {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array;
}

export interface Call {
  readonly request: RequestRecord;
  readonly body: Buffer;
  /** Whether the body came with a checksum. */
  readonly checked: boolean;
  readonly buckets: Buckets;
  readonly faults: Faults;
}

const MAX_KEYS = 1000;
const MAX_KEY_BYTES = 1024;

/**
 * What a request asks for, in path style: `/bucket`, `/bucket/key`. The key is everything after the second slash,
 * decoded and otherwise untouched: empty segments and dots are a key's like any other.
 */
export function understand(
  method: string,
  url: string,
  headers: RequestRecord['headers'],
  body: Buffer,
): RequestRecord {
  const path = (url.split('?', 1)[0] ?? '').slice(1);
  const slash = path.indexOf('/');
  const bucket = decode(slash < 0 ? path : path.slice(0, slash), false);
  const key = slash < 0 ? '' : decode(path.slice(slash + 1), false);
  const query = new Map(queryOf(url));
  const operation = nameOf(method, key === '' ? 'bucket' : 'object', query);
  const keys = operation === 'DeleteObjects' ? keysOf(body) : key === '' ? [] : [key];
  return { method, operation: bucket === '' ? 'Unknown' : operation, bucket, keys, query, headers };
}

function nameOf(method: string, of: 'bucket' | 'object', query: ReadonlyMap<string, string>): string {
  if (of === 'object') {
    const names: Record<string, string> = {
      PUT: 'PutObject',
      GET: 'GetObject',
      HEAD: 'HeadObject',
      DELETE: 'DeleteObject',
    };
    return names[method] ?? 'Unknown';
  }
  if (method === 'POST' && query.has('delete')) return 'DeleteObjects';
  if (method === 'GET' && query.get('list-type') === '2') return 'ListObjectsV2';
  // Nothing should ever send a DeleteBucket: it is here to be seen in the log if something does.
  const names: Record<string, string> = { PUT: 'CreateBucket', HEAD: 'HeadBucket', DELETE: 'DeleteBucket' };
  return names[method] ?? 'Unknown';
}

/** For the log: what cannot be read has no keys there, and is refused later. */
function keysOf(body: Buffer): string[] {
  try {
    return objectsOf(parseXml(body)).map(object => child(object, 'Key')?.text ?? '');
  } catch {
    return [];
  }
}

const objectsOf = (root: XmlElement) => root.children.filter(({ name }) => name === 'Object');

/** Does what a request asks for. @throws S3Error */
export function perform(call: Call): Answer {
  const operation = OPERATIONS[call.request.operation];
  if (!operation) throw new S3Error('NotImplemented', 'this server does not know that operation');
  return operation(call);
}

const keyOf = ({ request }: Call): string => {
  const key = request.keys[0] ?? '';
  if (Buffer.byteLength(key) > MAX_KEY_BYTES) throw new S3Error('KeyTooLongError', 'Your key is too long');
  return key;
};

const headersOf = (object: StoredObject) => ({
  ETag: object.etag,
  'Last-Modified': object.modified.toUTCString(),
  'Content-Length': String(object.body.length),
  'Content-Type': 'application/octet-stream',
});

const found = (call: Call): StoredObject => {
  const object = call.buckets.get(call.request.bucket, keyOf(call));
  if (!object) throw new S3Error('NoSuchKey', 'The specified key does not exist.');
  return object;
};

const assertBucket = ({ buckets, request }: Call) => void buckets.count(request.bucket);

const OPERATIONS: Readonly<Record<string, (call: Call) => Answer>> = {
  CreateBucket: ({ buckets, request }) => {
    if (buckets.hasBucket(request.bucket)) {
      throw new S3Error('BucketAlreadyOwnedByYou', 'The bucket exists and is yours.');
    }
    buckets.createBucket(request.bucket);
    return { status: 200, headers: { Location: `/${request.bucket}` } };
  },
  HeadBucket: call => {
    assertBucket(call);
    return { status: 200 };
  },
  DeleteBucket: call => {
    if (call.buckets.count(call.request.bucket) > 0) {
      throw new S3Error('BucketNotEmpty', 'The bucket you tried to delete is not empty');
    }
    call.buckets.removeBucket(call.request.bucket);
    return { status: 204 };
  },
  PutObject: call => {
    const object = call.buckets.put(call.request.bucket, keyOf(call), call.body);
    return { status: 200, headers: { ETag: object.etag } };
  },
  GetObject: call => {
    const object = found(call);
    return { status: 200, headers: headersOf(object), body: object.body };
  },
  HeadObject: call => ({ status: 200, headers: headersOf(found(call)) }),
  DeleteObject: call => {
    assertBucket(call);
    const key = keyOf(call);
    const error = call.faults.errorOf(key);
    if (error) throw new S3Error(error.code, error.message ?? error.code);
    if (!call.faults.keeps(key)) call.buckets.remove(call.request.bucket, key);
    return { status: 204 };
  },
  DeleteObjects: deleteObjects,
  ListObjectsV2: listObjectsV2,
};

function deleteObjects(call: Call): Answer {
  const { buckets, faults, request } = call;
  assertBucket(call);
  if (!call.checked) {
    throw new S3Error(
      'InvalidRequest',
      'Missing required header for this request: Content-MD5 OR x-amz-checksum-*',
    );
  }
  const root = parseXml(call.body);
  const keys = objectsOf(root).map(object => child(object, 'Key')?.text ?? '');
  if (root.name !== 'Delete' || keys.length < 1 || keys.length > MAX_KEYS || keys.includes('')) {
    throw new S3Error('MalformedXML', `a <Delete> of 1 to ${MAX_KEYS} keys was expected, got ${keys.length}`);
  }
  const quiet = child(root, 'Quiet')?.text === 'true';
  const entries = keys.map(key => {
    const error =
      Buffer.byteLength(key) > MAX_KEY_BYTES
        ? { code: 'KeyTooLongError', message: 'Your key is too long' }
        : faults.errorOf(key);
    if (error) {
      const details = element('Code', error.code) + element('Message', error.message ?? error.code);
      return `<Error>${element('Key', key)}${details}</Error>`;
    }
    if (!faults.keeps(key)) buckets.remove(request.bucket, key);
    return quiet ? '' : `<Deleted>${element('Key', key)}</Deleted>`;
  });
  return { status: 200, body: xmlDocument('DeleteResult', entries.join('')) };
}

function listObjectsV2({ buckets, request }: Call): Answer {
  const { query, bucket } = request;
  if (query.get('delimiter')) throw new S3Error('NotImplemented', 'delimiters are not implemented');
  const prefix = query.get('prefix') ?? '';
  const token = query.get('continuation-token');
  const encoding = query.get('encoding-type');
  if (encoding !== undefined && encoding !== 'url') {
    throw new S3Error('InvalidArgument', 'Invalid Encoding Method specified in Request');
  }
  const asked = Number(query.get('max-keys') ?? MAX_KEYS);
  if (!Number.isInteger(asked) || asked < 0) throw new S3Error('InvalidArgument', 'max-keys is no number');
  const limit = Math.min(asked, MAX_KEYS);
  const after = token === undefined ? (query.get('start-after') ?? '') : keyOfToken(token);
  const { objects, truncated } = buckets.page(bucket, { prefix, after, limit });
  // AWS encodes what a key has and XML may not, slashes excepted, spaces as '+'.
  const encode = (text: string) =>
    encoding === 'url' ? uriEncode(text).replaceAll('%2F', '/').replaceAll('%20', '+') : text;
  const last = objects.at(-1);
  const more = truncated && last !== undefined;
  const contents = objects.map(object => {
    const details = element('LastModified', object.modified.toISOString()) + element('ETag', object.etag);
    const size = element('Size', object.body.length) + element('StorageClass', 'STANDARD');
    return `<Contents><Key>${escapeXml(encode(object.key))}</Key>${details}${size}</Contents>`;
  });
  const content = [
    element('Name', bucket),
    element('Prefix', encode(prefix)),
    element('StartAfter', query.has('start-after') ? encode(query.get('start-after') ?? '') : undefined),
    element('ContinuationToken', token),
    element('NextContinuationToken', more ? tokenOf(last.key) : undefined),
    element('KeyCount', objects.length),
    element('MaxKeys', limit),
    element('EncodingType', encoding),
    element('IsTruncated', more),
    ...contents,
  ];
  return { status: 200, body: xmlDocument('ListBucketResult', content.join('')) };
}

/** Tokens are opaque; with `+`, `/` and `=` in them, which a client must send back as they came. */
const tokenOf = (key: string) => `t/${Buffer.from(key).toString('base64')}`;

function keyOfToken(token: string): string {
  const key = Buffer.from(token.slice(2), 'base64').toString();
  if (!token.startsWith('t/') || tokenOf(key) !== token) {
    throw new S3Error('InvalidArgument', 'The continuation token provided is incorrect');
  }
  return key;
}
