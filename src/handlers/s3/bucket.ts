/** The three requests that are ever sent, each through the context, each refusing an empty bucket, key or prefix. */
import {
  DeleteObjectCommand,
  DeleteObjectsCommand,
  type DeleteObjectsCommandOutput,
  ListObjectsV2Command,
  type S3Client,
} from '@aws-sdk/client-s3';
import { type Context, StorageError } from '../contract.ts';
import { type Connection, isStaleConnection, type S3StoreSettings } from './clients.ts';
import { storageErrorOf } from './errors.ts';
import { decodeListedKey } from './keys.ts';

/** Most keys that S3 takes in a DeleteObjects. */
export const MAX_KEYS = 1000;

/** How often a request is sent again at once because its connection had gone stale; each may meet another such. */
const STALE_CONNECTIONS = 3;

export interface ListedObject {
  /** Undefined: not UTF-8, and so nothing that a request could name. */
  readonly key: string | undefined;
  /** As the answer has it, for messages. */
  readonly raw: string;
  readonly size: number;
}

export interface ListedPage {
  readonly objects: readonly ListedObject[];
  /** What the next page begins with; undefined for the last. */
  readonly next: string | undefined;
}

/** A bucket at an endpoint. */
export class Bucket {
  readonly name: string;
  readonly deleteMode: 'auto' | 'batch' | 'single';
  /** For messages: `bucket "x" at http://…`. */
  readonly where: string;
  /** Set once the server has said, in mode `auto`, that it has no DeleteObjects. */
  batchMissing = false;
  readonly #client: S3Client;

  constructor(name: string, { client, endpoint }: Connection, settings: S3StoreSettings) {
    this.name = name;
    this.deleteMode = settings.deleteMode ?? 'auto';
    this.where = `bucket ${JSON.stringify(name)} at ${endpoint}`;
    this.#client = client;
  }

  /** DeleteObjects. What it throws is the SDK's: the caller asks `failureOf`. */
  async deleteObjects(keys: readonly string[], context: Context): Promise<DeleteObjectsCommandOutput> {
    if (keys.length < 1 || keys.length > MAX_KEYS) {
      throw new StorageError('permanent', `DeleteObjects takes 1 to ${MAX_KEYS} keys, not ${keys.length}`);
    }
    for (const key of keys) this.#assertNamed('a key', key);
    const command = new DeleteObjectsCommand({
      Bucket: this.name,
      Delete: { Quiet: true, Objects: keys.map(Key => ({ Key })) },
    });
    return await this.#call(context, abortSignal => this.#client.send(command, { abortSignal }));
  }

  /** DeleteObject. What it throws is the SDK's. */
  async deleteObject(key: string, context: Context): Promise<void> {
    // With an empty key it would be a DELETE of the bucket's own path: DeleteBucket.
    this.#assertNamed('a key', key);
    const command = new DeleteObjectCommand({ Bucket: this.name, Key: key });
    await this.#call(context, abortSignal => this.#client.send(command, { abortSignal }));
  }

  /**
   * A page of what is stored under a prefix. The prefix may be empty only where nothing will be deleted.
   * @throws StorageError
   */
  async list(
    prefix: string,
    options: { readonly limit: number; readonly from?: string | undefined; readonly wholeBucket?: boolean },
    context: Context,
  ): Promise<ListedPage> {
    this.#assertNamed('a prefix', options.wholeBucket ? 'whole bucket' : prefix);
    const command = new ListObjectsV2Command({
      Bucket: this.name,
      Prefix: prefix,
      MaxKeys: options.limit,
      // Keys may have what XML may not. The SDK does not decode what this encodes.
      EncodingType: 'url',
      ...(options.from === undefined ? {} : { ContinuationToken: options.from }),
    });
    try {
      const {
        Contents = [],
        EncodingType,
        IsTruncated,
        NextContinuationToken,
      } = await this.#call(context, abortSignal => this.#client.send(command, { abortSignal }));
      if (IsTruncated && !NextContinuationToken) {
        throw new StorageError('transient', `${this.where} lists a part and does not say how to go on`);
      }
      const objects = Contents.map(({ Key: raw = '', Size: size = 0 }) => ({
        key: decodeListedKey(raw, EncodingType),
        raw,
        size,
      }));
      return { objects, next: IsTruncated ? NextContinuationToken : undefined };
    } catch (error) {
      throw storageErrorOf(error, `could not list ${JSON.stringify(prefix)} in ${this.where}`);
    }
  }

  #assertNamed(what: string, text: string): void {
    if (this.name !== '' && text !== '') return;
    const missing = this.name === '' ? 'a bucket' : what;
    throw new StorageError('permanent', `refused before any request: ${missing} is never empty`);
  }

  /** One storage call; sent again at once if all that failed is a connection that the server had closed. */
  async #call<T>(context: Context, send: (signal: AbortSignal) => Promise<T>): Promise<T> {
    return await context.call(async signal => {
      for (let stale = 0; ; stale++) {
        try {
          return await send(signal);
        } catch (error) {
          if (stale >= STALE_CONNECTIONS || signal.aborted || !isStaleConnection(error)) throw error;
        }
      }
    });
  }
}
