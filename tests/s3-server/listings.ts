/** The listings, page by page, as S3 writes them. */

import { type Answer, type Call, MAX_KEYS } from './call.ts';
import { S3Error } from './errors.ts';
import { uriEncode } from './signature.ts';
import { element, escapeXml, xmlDocument } from './xml.ts';

/** How a listing writes its keys: AWS encodes what a key has and XML may not, slashes excepted, spaces as '+'. */
function encoderOf(query: ReadonlyMap<string, string>): (text: string) => string {
  const encoding = query.get('encoding-type');
  if (encoding !== undefined && encoding !== 'url') {
    throw new S3Error('InvalidArgument', 'Invalid Encoding Method specified in Request');
  }
  if (encoding === undefined) return text => text;
  return text => uriEncode(text).replaceAll('%2F', '/').replaceAll('%20', '+');
}

/** A page of entries that are in order: what comes after two markers, the second of which belongs to the first. */
function pageAfter<T extends { readonly key: string }>(
  entries: readonly T[],
  { query, ids, idOf, limit }: PageAfter<T>,
): { page: readonly T[]; more: boolean } {
  const [key, id] = [query.get('key-marker'), query.get(ids)];
  const rank = (text: string) => Buffer.from(text, 'utf8').toString('latin1');
  let from = 0;
  if (key !== undefined) {
    const isAfter = (entry: T) => rank(entry.key) > rank(key);
    const at = id ? entries.findIndex(entry => entry.key === key && idOf(entry) === id) : -1;
    const next =
      at >= 0 ? at + 1 : entries.findIndex(entry => isAfter(entry) || (Boolean(id) && entry.key === key));
    from = next < 0 ? entries.length : next;
  }
  return { page: entries.slice(from, from + limit), more: from + limit < entries.length };
}

interface PageAfter<T> {
  readonly query: ReadonlyMap<string, string>;
  readonly ids: string;
  readonly idOf: (entry: T) => string;
  readonly limit: number;
}

function limitOf(query: ReadonlyMap<string, string>, name: string): number {
  const asked = Number(query.get(name) ?? MAX_KEYS);
  if (!Number.isInteger(asked) || asked < 0) throw new S3Error('InvalidArgument', `${name} is no number`);
  return Math.min(asked, MAX_KEYS);
}

export function listObjectVersions({ buckets, request }: Call): Answer {
  const { query, bucket } = request;
  const encode = encoderOf(query);
  const limit = limitOf(query, 'max-keys');
  const { page, more } = pageAfter(buckets.versions(bucket, query.get('prefix') ?? ''), {
    query,
    ids: 'version-id-marker',
    idOf: ({ versionId }) => versionId,
    limit,
  });
  const last = page.at(-1);
  const entries = page.map(version => {
    const name = version.isMarker ? 'DeleteMarker' : 'Version';
    const content = [
      `<Key>${escapeXml(encode(version.key))}</Key>`,
      element('VersionId', version.versionId),
      element('IsLatest', version.isLatest),
      element('LastModified', version.modified.toISOString()),
      version.isMarker ? '' : element('ETag', version.etag) + element('Size', version.body.length),
    ];
    return `<${name}>${content.join('')}</${name}>`;
  });
  const content = [
    element('Name', bucket),
    element('MaxKeys', limit),
    element('EncodingType', query.get('encoding-type')),
    element('IsTruncated', more),
    more && last ? element('NextKeyMarker', encode(last.key)) : '',
    more && last ? element('NextVersionIdMarker', last.versionId) : '',
    ...entries,
  ];
  return { status: 200, body: xmlDocument('ListVersionsResult', content.join('')) };
}

export function listMultipartUploads({ buckets, request }: Call): Answer {
  const { query, bucket } = request;
  const encode = encoderOf(query);
  const limit = limitOf(query, 'max-uploads');
  const { page, more } = pageAfter(buckets.uploads(bucket, query.get('prefix') ?? ''), {
    query,
    ids: 'upload-id-marker',
    idOf: ({ uploadId }) => uploadId,
    limit,
  });
  const last = page.at(-1);
  const entries = page.map(({ key, uploadId, initiated }) => {
    const id = element('UploadId', uploadId) + element('Initiated', initiated.toISOString());
    return `<Upload><Key>${escapeXml(encode(key))}</Key>${id}</Upload>`;
  });
  const content = [
    element('Bucket', bucket),
    element('EncodingType', query.get('encoding-type')),
    element('IsTruncated', more),
    more && last ? element('NextKeyMarker', encode(last.key)) : '',
    more && last ? element('NextUploadIdMarker', last.uploadId) : '',
    ...entries,
  ];
  return { status: 200, body: xmlDocument('ListMultipartUploadsResult', content.join('')) };
}

export function listObjectsV2({ buckets, request }: Call): Answer {
  const { query, bucket } = request;
  if (query.get('delimiter')) throw new S3Error('NotImplemented', 'delimiters are not implemented');
  const prefix = query.get('prefix') ?? '';
  const token = query.get('continuation-token');
  const encode = encoderOf(query);
  const limit = limitOf(query, 'max-keys');
  const after = token === undefined ? (query.get('start-after') ?? '') : keyOfToken(token);
  const { objects, truncated } = buckets.page(bucket, { prefix, after, limit });
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
    element('EncodingType', query.get('encoding-type')),
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
