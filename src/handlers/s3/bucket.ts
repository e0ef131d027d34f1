/** The requests that are ever sent, each through the context, each refusing an empty bucket, key or prefix. */
import {
  AbortMultipartUploadCommand,
  DeleteObjectCommand,
  DeleteObjectsCommand,
  type DeleteObjectsCommandOutput,
  GetBucketVersioningCommand,
  HeadObjectCommand,
  type ObjectIdentifier,
  type S3Client,
} from '@aws-sdk/client-s3';
import { type Context, StorageError } from '../contract.ts';
import { Budget } from './budget.ts';
import { type Checksum, sendMd5 } from './checksums.ts';
import { type Connection, isStaleConnection, type S3StoreSettings } from './clients.ts';
import { UnknownFrame, writeObjects } from './delete-body.ts';
import { failureOf, storageErrorOf } from './errors.ts';

/** Most keys that S3 takes in a DeleteObjects. */
export const MAX_KEYS = 1000;

/** How often a request is sent again at once because its connection had gone stale; each may meet another such. */
const STALE_CONNECTIONS = 3;

/** What is deleted: a key as it is now, or one version of it. */
export interface Item {
  readonly key: string;
  /** Left out: what the key is now. */
  readonly versionId?: string | undefined;
  /** Delete only what has this ETag, where the server knows of such a condition. */
  readonly etag?: string | undefined;
}

/**
 * A bucket at an endpoint, and what has been learned of it. Not named like the SDK's parameter: where a class stands in its
 * own body, tsc 7.0.2 puts an alias for its name, and takes the key in `{ Bucket: … }` for one more place.
 */
export class S3Bucket {
  readonly name: string;
  readonly settings: S3StoreSettings;
  readonly deleteMode: 'auto' | 'batch' | 'single';
  /** For messages: `bucket "x" at http://…`. */
  readonly where: string;
  /** How many keys a second it takes. */
  readonly budget = new Budget();
  /** Set once the server has said, in mode `auto`, that it has no DeleteObjects. */
  batchMissing = false;
  readonly #connection: Connection;
  #checksum: Checksum;
  /** The checksum that the server has refused, if so. */
  #refused: Checksum | undefined;
  /** Whether a DeleteObjects has succeeded: its checksum is the right one. */
  #proven = false;
  #proving: Promise<unknown> | undefined;
  /** Whether the objects of a DeleteObjects are written by us: until the SDK is found to write what is around them otherwise. */
  #byHand = true;

  constructor(name: string, connection: Connection, settings: S3StoreSettings) {
    this.name = name;
    this.settings = settings;
    this.deleteMode = settings.deleteMode ?? 'auto';
    this.where = `bucket ${JSON.stringify(name)} at ${connection.endpoint}`;
    this.#connection = connection;
    this.#checksum = settings.checksum ?? (connection.isAws ? 'crc32' : 'md5');
  }

  /** DeleteObjects. What it throws is the SDK's: the caller asks `failureOf`. */
  async deleteObjects(items: readonly Item[], context: Context): Promise<DeleteObjectsCommandOutput> {
    if (items.length < 1 || items.length > MAX_KEYS) {
      throw new StorageError('permanent', `DeleteObjects takes 1 to ${MAX_KEYS} keys, not ${items.length}`);
    }
    for (const { key } of items) this.assertNamed('a key', key);
    // Until it is known which checksum the server takes, one request goes at a time: so it costs one to find out.
    while (!this.#proven && this.#proving !== undefined) await this.#proving;
    const sent = this.#deleteObjects(items, context);
    if (!this.#proven) {
      const proving = sent.then(
        () => {},
        () => {},
      );
      this.#proving = proving;
      void proving.then(() => {
        this.#proving = undefined;
      });
    }
    return await sent;
  }

  async #deleteObjects(items: readonly Item[], context: Context): Promise<DeleteObjectsCommandOutput> {
    for (;;) {
      const checksum = this.#checksum;
      try {
        const output = await this.call(context, (client, abortSignal) => {
          const Objects = this.#byHand ? [] : items.map(objectOf);
          const command = new DeleteObjectsCommand({ Bucket: this.name, Delete: { Quiet: true, Objects } });
          if (this.#byHand) writeObjects(command, items);
          if (checksum === 'md5') sendMd5(command);
          return client.send(command, { abortSignal });
        });
        this.#proven = true;
        return output;
      } catch (error) {
        if (error instanceof UnknownFrame) this.#byHand = false;
        else if (!this.#takesOther(checksum, error)) throw error;
      }
    }
  }

  /** Whether a DeleteObjects that failed is to be sent again, with another checksum. */
  #takesOther(checksum: Checksum, error: unknown): boolean {
    const { kind } = failureOf(error);
    // "A header you provided implies functionality that is not implemented" may mean the newer of the two.
    const refused = kind === 'other_checksum' || (kind === 'no_batch' && checksum === 'crc32');
    if (!refused) return false;
    if (this.#checksum !== checksum) return true;
    if (this.#refused !== undefined) return false;
    this.#refused = checksum;
    this.#checksum = checksum === 'crc32' ? 'md5' : 'crc32';
    return true;
  }

  /** DeleteObject. What it throws is the SDK's. */
  async deleteObject({ key, versionId, etag }: Item, context: Context): Promise<void> {
    // With an empty key it would be a DELETE of the bucket's own path: DeleteBucket.
    this.assertNamed('a key', key);
    const command = new DeleteObjectCommand({
      Bucket: this.name,
      Key: key,
      ...(versionId === undefined ? {} : { VersionId: versionId }),
      ...(etag === undefined ? {} : { IfMatch: etag }),
    });
    await this.call(context, (client, abortSignal) => client.send(command, { abortSignal }));
  }

  /** AbortMultipartUpload. What it throws is the SDK's. */
  async abortUpload(key: string, uploadId: string, context: Context): Promise<void> {
    // Without an upload it would be a DeleteObject.
    this.assertNamed('a key', key);
    this.assertNamed('an upload', uploadId);
    const command = new AbortMultipartUploadCommand({ Bucket: this.name, Key: key, UploadId: uploadId });
    await this.call(context, (client, abortSignal) => client.send(command, { abortSignal }));
  }

  /** Whether a HEAD of a key, or of one version of it, is answered 404. What it throws is the SDK's. */
  async isMissing({ key, versionId }: Item, context: Context): Promise<boolean> {
    this.assertNamed('a key', key);
    const command = new HeadObjectCommand({
      Bucket: this.name,
      Key: key,
      ...(versionId === undefined ? {} : { VersionId: versionId }),
    });
    try {
      await this.call(context, (client, abortSignal) => client.send(command, { abortSignal }));
      return false;
    } catch (error) {
      if (failureOf(error).status === 404) return true;
      throw error;
    }
  }

  /** Whether old versions are kept in it; `unversioned` is also what a server says that knows of none. @throws StorageError */
  async versioning(context: Context): Promise<'unversioned' | 'enabled' | 'suspended'> {
    const command = new GetBucketVersioningCommand({ Bucket: this.name });
    this.assertNamed('a bucket', this.name);
    try {
      const { Status } = await this.call(context, (client, abortSignal) =>
        client.send(command, { abortSignal }),
      );
      return Status === 'Enabled' ? 'enabled' : Status === 'Suspended' ? 'suspended' : 'unversioned';
    } catch (error) {
      if (failureOf(error).kind === 'no_batch') return 'unversioned';
      throw storageErrorOf(error, `could not ask whether ${this.where} is versioned`);
    }
  }

  /** @throws StorageError before any request that would address more than was meant. */
  assertNamed(what: string, text: string): void {
    if (this.name !== '' && text !== '') return;
    const missing = this.name === '' ? 'a bucket' : what;
    throw new StorageError('permanent', `refused before any request: ${missing} is never empty`);
  }

  /**
   * One storage call, sent again at once where that alone may mend it: a connection that the server had closed;
   * credentials that have expired, found anew; a clock that is wrong, which the SDK has corrected by the answer.
   */
  async call<T>(context: Context, send: (client: S3Client, signal: AbortSignal) => Promise<T>): Promise<T> {
    return await context.call(async signal => {
      const mended = new Set<string>();
      for (let stale = 0; ; ) {
        const { client } = this.#connection;
        try {
          return await send(client, signal);
        } catch (error) {
          if (signal.aborted) throw error;
          const { mend } = failureOf(error);
          if (isStaleConnection(error) && stale < STALE_CONNECTIONS) stale += 1;
          else if (mend !== undefined && !mended.has(mend)) {
            mended.add(mend);
            if (mend === 'credentials') this.#connection.renew(client);
          } else throw error;
        }
      }
    });
  }
}

/** As the SDK wants it. */
function objectOf({ key, versionId, etag }: Item): ObjectIdentifier {
  return {
    Key: key,
    ...(versionId === undefined ? {} : { VersionId: versionId }),
    ...(etag === undefined ? {} : { ETag: etag }),
  };
}
