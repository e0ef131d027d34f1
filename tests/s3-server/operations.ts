/** The operations: a request that is understood and verified in, an answer out. */
import { type Answer, type Call, MAX_KEYS } from './call.ts';
import { S3Error } from './errors.ts';
import type { RequestRecord } from './faults.ts';
import { listMultipartUploads, listObjectsV2, listObjectVersions } from './listings.ts';
import { decode, queryOf } from './signature.ts';
import type { StoredObject } from './store.ts';
import { child, element, parseXml, type XmlElement, xmlDocument } from './xml.ts';

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
  const part = PARTS.find(({ name }) => query.has(name));
  const names = part?.[of] ?? NAMES[of];
  return names[method] ?? 'Unknown';
}

type Names = Readonly<Record<string, string>>;

const NAMES: Readonly<Record<'bucket' | 'object', Names>> = {
  object: { PUT: 'PutObject', GET: 'GetObject', HEAD: 'HeadObject', DELETE: 'DeleteObject' },
  // Nothing should ever send a DeleteBucket: it is here to be seen in the log if something does.
  bucket: { PUT: 'CreateBucket', HEAD: 'HeadBucket', DELETE: 'DeleteBucket' },
};

/** What a parameter of the query makes of a request. */
const PARTS: readonly { readonly name: string; readonly bucket?: Names; readonly object?: Names }[] = [
  { name: 'delete', bucket: { POST: 'DeleteObjects' } },
  { name: 'list-type', bucket: { GET: 'ListObjectsV2' } },
  { name: 'versioning', bucket: { GET: 'GetBucketVersioning', PUT: 'PutBucketVersioning' } },
  { name: 'versions', bucket: { GET: 'ListObjectVersions' } },
  {
    name: 'uploads',
    bucket: { GET: 'ListMultipartUploads' },
    object: { POST: 'CreateMultipartUpload' },
  },
  { name: 'uploadId', object: { PUT: 'UploadPart', DELETE: 'AbortMultipartUpload' } },
];

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
  const { bucket, query } = call.request;
  const [key, id] = [keyOf(call), query.get('versionId')];
  const object =
    id === undefined
      ? call.buckets.get(bucket, key)
      : call.buckets.versions(bucket, key).find(it => it.key === key && it.versionId === id);
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
    const versionId = call.request.query.get('versionId');
    const ifMatch = call.request.headers['if-match'];
    const error = deleteOne(call, {
      key,
      versionId,
      etag: typeof ifMatch === 'string' ? ifMatch : undefined,
    });
    if (error) throw new S3Error(error.code, error.message ?? error.code);
    return { status: 204 };
  },
  GetBucketVersioning: ({ buckets, request }) => ({
    status: 200,
    body: xmlDocument('VersioningConfiguration', element('Status', buckets.versioning(request.bucket))),
  }),
  PutBucketVersioning: ({ body, buckets, request }) => {
    const status = child(parseXml(body), 'Status')?.text;
    if (status !== 'Enabled' && status !== 'Suspended') throw new S3Error('MalformedXML', 'no such status');
    buckets.setVersioning(request.bucket, status);
    return { status: 200 };
  },
  CreateMultipartUpload: call => {
    const { key, uploadId } = call.buckets.beginUpload(call.request.bucket, keyOf(call));
    const content = element('Bucket', call.request.bucket) + element('Key', key);
    return {
      status: 200,
      body: xmlDocument('InitiateMultipartUploadResult', content + element('UploadId', uploadId)),
    };
  },
  // Parts are never completed here, and so nobody asks for them.
  UploadPart: () => ({ status: 200, headers: { ETag: '"part"' } }),
  AbortMultipartUpload: call => {
    const uploadId = call.request.query.get('uploadId') ?? '';
    if (!call.buckets.abortUpload(call.request.bucket, keyOf(call), uploadId)) {
      throw new S3Error('NoSuchUpload', 'The specified upload does not exist.');
    }
    return { status: 204 };
  },
  ListObjectVersions: listObjectVersions,
  ListMultipartUploads: listMultipartUploads,
  DeleteObjects: deleteObjects,
  ListObjectsV2: listObjectsV2,
};

function deleteObjects(call: Call): Answer {
  assertBucket(call);
  if (!call.checked) {
    throw new S3Error(
      'InvalidRequest',
      'Missing required header for this request: Content-MD5 OR x-amz-checksum-*',
    );
  }
  const root = parseXml(call.body);
  const objects = objectsOf(root).map(object => ({
    key: child(object, 'Key')?.text ?? '',
    versionId: child(object, 'VersionId')?.text,
    etag: child(object, 'ETag')?.text,
  }));
  const { length } = objects;
  if (root.name !== 'Delete' || length < 1 || length > MAX_KEYS || objects.some(({ key }) => key === '')) {
    throw new S3Error('MalformedXML', `a <Delete> of 1 to ${MAX_KEYS} keys was expected, got ${length}`);
  }
  const quiet = child(root, 'Quiet')?.text === 'true';
  const entries = objects.map(object => {
    const error =
      Buffer.byteLength(object.key) > MAX_KEY_BYTES
        ? { code: 'KeyTooLongError', message: 'Your key is too long' }
        : deleteOne(call, object);
    const named = (key: string) => element('Key', key) + element('VersionId', object.versionId);
    if (!error) return quiet ? '' : `<Deleted>${named(object.key)}</Deleted>`;
    const details = element('Code', error.code) + element('Message', error.message ?? error.code);
    return `<Error>${named(call.faults.echoed(object.key))}${details}</Error>`;
  });
  return { status: 200, body: xmlDocument('DeleteResult', entries.join('')) };
}

interface Deletion {
  readonly key: string;
  readonly versionId: string | undefined;
  readonly etag: string | undefined;
}

/** Deletes a key or a version of it, or says why not. */
function deleteOne({ buckets, faults, request }: Call, { key, versionId, etag }: Deletion) {
  const error = faults.errorOf(key, versionId);
  if (error) return error;
  const found = buckets.get(request.bucket, key);
  if (etag !== undefined && found !== undefined && found.etag !== etag) {
    return {
      code: 'PreconditionFailed',
      message: 'At least one of the pre-conditions you specified did not hold',
    };
  }
  if (!faults.keeps(key)) buckets.remove(request.bucket, key, versionId);
  return undefined;
}
