/** The listings: pages of objects, of versions, of uploads that were never completed. */
import {
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  ListObjectVersionsCommand,
  type S3Client,
} from '@aws-sdk/client-s3';
import { type Context, StorageError } from '../contract.ts';
import { dateOf } from './answers.ts';
import type { S3Bucket } from './bucket.ts';
import { storageErrorOf } from './errors.ts';
import { decodeListedKey } from './keys.ts';

/** An object, or a version of one, or the marker of a deletion. */
export interface ListedObject {
  /** Undefined: not UTF-8, and so nothing that a request could name. */
  readonly key: string | undefined;
  /** As the answer has it, for messages. */
  readonly raw: string;
  readonly size: number;
  readonly etag: string | undefined;
  /** When it was written, on the server's clock; undefined where the answer does not say. */
  readonly modified: Date | undefined;
  /** Of a listing of versions only. */
  readonly versionId?: string | undefined;
  /** Whether this is what the key is now; of a listing of versions only. */
  readonly isLatest?: boolean;
  readonly isMarker?: boolean;
}

/** What tells one entry from another. */
export const nameOf = ({ raw, versionId }: ListedObject): string =>
  versionId === undefined ? raw : `${raw}\0${versionId}`;

export interface Page<T> {
  readonly entries: readonly T[];
  /** What the next page begins with; undefined for the last. */
  readonly next: string | undefined;
  /** The server's clock when it answered; undefined if it does not say. */
  readonly date: Date | undefined;
}

export interface PageOptions {
  readonly limit: number;
  /** What the page before said comes next. */
  readonly from?: string | undefined;
  /** The prefix may be empty: nothing will be deleted that is not filtered by another one. */
  readonly wholeBucket?: boolean;
}

/** A page of what is stored under a prefix. @throws StorageError */
export async function listObjects(
  bucket: S3Bucket,
  prefix: string,
  options: PageOptions,
  context: Context,
): Promise<Page<ListedObject>> {
  bucket.assertNamed('a prefix', options.wholeBucket ? 'whole bucket' : prefix);
  const { limit, from } = options;
  const command = new ListObjectsV2Command({
    Bucket: bucket.name,
    Prefix: prefix,
    MaxKeys: limit,
    // Keys may have what XML may not. The SDK does not decode what this encodes.
    EncodingType: 'url',
    ...(from === undefined ? {} : { ContinuationToken: from }),
  });
  const output = await answerTo(bucket, prefix, context, (client, signal) =>
    client.send(command, { abortSignal: signal }),
  );
  const { Contents = [], EncodingType, IsTruncated, NextContinuationToken } = output;
  const entries = Contents.map(({ Key: raw = '', Size: size = 0, ETag, LastModified }) => ({
    key: decodeListedKey(raw, EncodingType),
    raw,
    size,
    etag: ETag,
    modified: LastModified,
  }));
  return { entries, next: nextOf(bucket, IsTruncated, NextContinuationToken), date: dateOf(output) };
}

/**
 * A page of the versions under a prefix: by key, of each key the newest first, delete markers among them.
 * @throws StorageError
 */
export async function listVersions(
  bucket: S3Bucket,
  prefix: string,
  options: PageOptions,
  context: Context,
): Promise<Page<ListedObject>> {
  bucket.assertNamed('a prefix', options.wholeBucket ? 'whole bucket' : prefix);
  const [keyMarker, versionMarker] = markersOf(options.from);
  const command = new ListObjectVersionsCommand({
    Bucket: bucket.name,
    Prefix: prefix,
    MaxKeys: options.limit,
    EncodingType: 'url',
    ...(keyMarker === undefined ? {} : { KeyMarker: keyMarker }),
    ...(versionMarker === undefined ? {} : { VersionIdMarker: versionMarker }),
  });
  const output = await answerTo(bucket, prefix, context, (client, signal) =>
    client.send(command, { abortSignal: signal }),
  );
  const { Versions = [], DeleteMarkers = [], EncodingType, IsTruncated } = output;
  const version = (isMarker: boolean) => (listed: (typeof Versions)[number]) => ({
    key: decodeListedKey(listed.Key ?? '', EncodingType),
    raw: listed.Key ?? '',
    size: listed.Size ?? 0,
    etag: undefined,
    modified: listed.LastModified,
    versionId: listed.VersionId,
    isLatest: listed.IsLatest ?? false,
    isMarker,
  });
  const entries = [...Versions.map(version(false)), ...DeleteMarkers.map(version(true))];
  const marker = output.NextKeyMarker && decodeListedKey(output.NextKeyMarker, EncodingType);
  const next = marker && JSON.stringify([marker, output.NextVersionIdMarker ?? null]);
  return { entries, next: nextOf(bucket, IsTruncated, next), date: dateOf(output) };
}

/** An upload in parts that was begun and not completed: its parts cost as much as an object. */
export interface ListedUpload {
  readonly key: string | undefined;
  readonly raw: string;
  readonly uploadId: string;
  /** On the server's clock. */
  readonly initiated: Date | undefined;
}

/** A page of the uploads under a prefix that were never completed. @throws StorageError */
export async function listUploads(
  bucket: S3Bucket,
  prefix: string,
  options: PageOptions,
  context: Context,
): Promise<Page<ListedUpload>> {
  bucket.assertNamed('a prefix', options.wholeBucket ? 'whole bucket' : prefix);
  const [keyMarker, uploadMarker] = markersOf(options.from);
  const command = new ListMultipartUploadsCommand({
    Bucket: bucket.name,
    Prefix: prefix,
    MaxUploads: options.limit,
    EncodingType: 'url',
    ...(keyMarker === undefined ? {} : { KeyMarker: keyMarker }),
    ...(uploadMarker === undefined ? {} : { UploadIdMarker: uploadMarker }),
  });
  const output = await answerTo(bucket, prefix, context, (client, signal) =>
    client.send(command, { abortSignal: signal }),
  );
  const { Uploads = [], EncodingType, IsTruncated } = output;
  const entries = Uploads.map(({ Key: raw = '', UploadId: uploadId = '', Initiated: initiated }) => ({
    key: decodeListedKey(raw, EncodingType),
    raw,
    uploadId,
    initiated,
  }));
  const marker = output.NextKeyMarker && decodeListedKey(output.NextKeyMarker, EncodingType);
  const next = marker && JSON.stringify([marker, output.NextUploadIdMarker || null]);
  return { entries, next: nextOf(bucket, IsTruncated, next), date: dateOf(output) };
}

/** The two markers of a page, from what `next` made of them. */
function markersOf(from: string | undefined): (string | undefined)[] {
  if (from === undefined) return [];
  return (JSON.parse(from) as (string | null)[]).map(marker => marker ?? undefined);
}

/** The key that the next page of versions begins with: it may have more of them there. */
export function keyOfMarker(next: string): string | undefined {
  return markersOf(next)[0];
}

function nextOf(
  bucket: S3Bucket,
  truncated: boolean | undefined,
  next: string | undefined,
): string | undefined {
  if (!truncated) return undefined;
  if (next) return next;
  throw new StorageError('transient', `${bucket.where} lists a part and does not say how to go on`);
}

async function answerTo<T>(
  bucket: S3Bucket,
  prefix: string,
  context: Context,
  send: (client: S3Client, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  try {
    return await bucket.call(context, send);
  } catch (error) {
    throw storageErrorOf(error, `could not list ${JSON.stringify(prefix)} in ${bucket.where}`);
  }
}
