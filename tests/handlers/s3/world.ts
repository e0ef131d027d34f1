/** A bucket on some S3 server for one test, a handler of it, and a client of Amazon's to put things there and to look. */
import {
  CreateBucketCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  HeadBucketCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  ListObjectVersionsCommand,
  PutBucketVersioningCommand,
  PutObjectCommand,
  S3Client,
  UploadPartCommand,
} from '@aws-sdk/client-s3';
import pLimit from 'p-limit';
import { onTestFinished } from 'vitest';
import type { Cleanup, Handler, Result } from '../../../src/handlers/contract.ts';
import { createS3Handler, type S3StoreSettings } from '../../../src/handlers/s3/index.ts';
import type { S3Server } from '../../s3-server/server.ts';
import type { RealServer } from '../../s3-servers/start.ts';
import { createTestContext, type TestContext } from '../context.ts';
import { type Recorded, startRecorder } from './recorder.ts';

export interface World {
  readonly bucket: string;
  /** The project's own server, where that is what it is: only there can faults be made. */
  readonly own: S3Server | undefined;
  readonly client: S3Client;
  readonly handler: Handler;
  readonly context: TestContext;
  /** A further handler of the same bucket. */
  handlerWith(settings: S3StoreSettings): Handler;
  /** A cleanup of any key at all, also of one that no target may name. */
  cleanup(key: string, more?: Partial<Cleanup>): Cleanup;
  run(...keys: string[]): Promise<readonly Result[]>;
  runOne(key: string, more?: Partial<Cleanup>): Promise<Result>;
  /** What the handler has asked. */
  readonly requests: readonly Recorded[];
  operations(): string[];
  forget(): void;
  put(key: string, body?: string): Promise<void>;
  putAll(keys: readonly string[], body?: string): Promise<void>;
  /** A plain delete, which in a versioned bucket leaves a marker. */
  hide(key: string): Promise<void>;
  keys(): Promise<string[]>;
  /** Versions and markers of deletions. */
  versions(): Promise<{ key: string; size: number; isMarker: boolean }[]>;
  version(status: 'Enabled' | 'Suspended'): Promise<void>;
  /** Begins an upload in parts, with one part of it. */
  beginUpload(key: string): Promise<string>;
  uploads(key: string): Promise<string[]>;
  /** Until the server's clock has gone on by some seconds: it tells times in whole ones. */
  later(): Promise<void>;
}

export interface WorldOptions extends S3StoreSettings {
  /** The bucket has object lock. */
  readonly lock?: boolean;
}

let buckets = 0;

export async function openWorld(
  server: RealServer | S3Server,
  { lock = false, ...settings }: WorldOptions = {},
): Promise<World> {
  const bucket = `afterdelete-test-${process.pid}-${Date.now().toString(36)}-${buckets++}`;
  const { endpoint, accessKeyId, secretAccessKey } = server;
  const region = 'region' in server ? server.region : 'us-east-1';
  const credentials = { accessKeyId, secretAccessKey };
  const client = new S3Client({ endpoint, region, forcePathStyle: true, credentials });
  const Bucket = bucket;
  await client.send(
    new CreateBucketCommand({ Bucket, ...(lock ? { ObjectLockEnabledForBucket: true } : {}) }),
  );
  const recorder = await startRecorder(endpoint);
  const handlers: Handler[] = [];
  const handlerWith = (own: S3StoreSettings) => {
    const store = { endpoint: recorder.endpoint, region, credentials, ...own };
    const handler = createS3Handler({ stores: new Map([[`s3://${bucket}`, store]]) });
    handlers.push(handler);
    return handler;
  };
  const handler = handlerWith(settings);
  onTestFinished(async () => {
    for (const one of handlers) await one.close?.();
    client.destroy();
    await recorder.close();
  });
  const context = createTestContext();
  const cleanup = (key: string, more: Partial<Cleanup> = {}): Cleanup => {
    const store = `s3://${bucket}`;
    const target = {
      text: `${store}/${key}`,
      scheme: 's3',
      authority: bucket,
      store,
      path: key,
      tree: key.endsWith('/'),
    };
    return { id: key, target, root: `${store}/`, pruneParents: 0, attempt: 0, ...more };
  };
  const put = async (Key: string, Body = 'ten bytes.') => {
    await client.send(new PutObjectCommand({ Bucket, Key, Body }));
  };
  const now = async () => {
    let date = Number.NaN;
    const command = new HeadBucketCommand({ Bucket });
    command.middlewareStack.add(
      next => async args => {
        const result = await next(args);
        const { headers } = result.response as { headers: Record<string, string> };
        date = Date.parse(headers.date ?? '');
        return result;
      },
      { step: 'deserialize' },
    );
    await client.send(command);
    return date;
  };
  return {
    bucket,
    own: 'faults' in server ? server : undefined,
    client,
    handler,
    context,
    handlerWith,
    cleanup,
    run: async (...keys) =>
      await handler.delete(
        keys.map(key => cleanup(key)),
        context,
      ),
    runOne: async (key, more) => {
      const [result] = await handler.delete([cleanup(key, more)], context);
      if (!result) throw new Error('the handler gave no result');
      return result;
    },
    requests: recorder.requests,
    operations: () => recorder.requests.map(({ operation }) => operation),
    forget: () => recorder.forget(),
    put,
    putAll: async (keys, body) => void (await pLimit(16).map(keys, key => put(key, body))),
    hide: async Key => void (await client.send(new DeleteObjectCommand({ Bucket, Key }))),
    keys: async () => {
      const keys: string[] = [];
      for (let from: string | undefined, last = false; !last; ) {
        const page = await client.send(
          new ListObjectsV2Command({ Bucket, EncodingType: 'url', ContinuationToken: from }),
        );
        for (const { Key = '' } of page.Contents ?? [])
          keys.push(decodeURIComponent(Key.replaceAll('+', ' ')));
        from = page.NextContinuationToken;
        last = !page.IsTruncated;
      }
      return keys.sort();
    },
    versions: async () => {
      const { Versions = [], DeleteMarkers = [] } = await client.send(
        new ListObjectVersionsCommand({ Bucket }),
      );
      return [
        ...Versions.map(({ Key: key = '', Size: size = 0 }) => ({ key, size, isMarker: false })),
        ...DeleteMarkers.map(({ Key: key = '' }) => ({ key, size: 0, isMarker: true })),
      ];
    },
    version: async Status => {
      const VersioningConfiguration = { Status };
      await client.send(new PutBucketVersioningCommand({ Bucket, VersioningConfiguration }));
    },
    beginUpload: async Key => {
      const { UploadId } = await client.send(new CreateMultipartUploadCommand({ Bucket, Key }));
      await client.send(new UploadPartCommand({ Bucket, Key, UploadId, PartNumber: 1, Body: 'part' }));
      return UploadId ?? '';
    },
    uploads: async key => {
      const { Uploads = [] } = await client.send(new ListMultipartUploadsCommand({ Bucket, Prefix: key }));
      return Uploads.map(({ UploadId = '' }) => UploadId);
    },
    later: async () => {
      const begun = await now();
      while ((await now()) < begun + 3_000) await new Promise(resolve => setTimeout(resolve, 100));
    },
  };
}
