/** A server, a handler and a context for one test, put away after it. */
import { onTestFinished } from 'vitest';
import type { Cleanup, Handler, Result } from '../../../src/handlers/contract.ts';
import { createS3Handler, type S3StoreSettings } from '../../../src/handlers/s3/index.ts';
import { parseTarget } from '../../../src/target.ts';
import { type RequestRecord, type S3Server, startS3Server } from '../../s3-server/server.ts';
import { createTestContext, type TestContext } from '../context.ts';

export const BUCKET = 'test-bucket';
export const ROOT = `s3://${BUCKET}/`;

export interface Setup {
  readonly server: S3Server;
  readonly handler: Handler;
  readonly context: TestContext;
  /** Deletes single keys, or prefixes one by one, each a cleanup of the bucket. */
  run(...keys: string[]): Promise<readonly Result[]>;
  runOne(key: string, context?: TestContext): Promise<Result>;
  /** The operations that the server was asked for, in order. */
  operations(): string[];
  /** The requests of one operation. */
  requests(operation: string): RequestRecord[];
}

export async function setUp(
  settings: S3StoreSettings & { readonly storageTimeout?: number } = {},
): Promise<Setup> {
  const server = await startS3Server({ buckets: [BUCKET] });
  const handler = handlerOf(server, settings);
  onTestFinished(async () => {
    await handler.close?.();
    await server.stop();
  });
  const context = createTestContext();
  const run = (keys: readonly string[], using: TestContext) => handler.delete(keys.map(cleanup), using);
  return {
    server,
    handler,
    context,
    run: (...keys) => run(keys, context),
    runOne: async (key, using = context) => {
      const [result] = await run([key], using);
      if (!result) throw new Error('the handler gave no result');
      return result;
    },
    operations: () => server.requests.map(request => request.operation),
    requests: operation => server.requests.filter(request => request.operation === operation),
  };
}

/** A handler of the server's bucket. */
export function handlerOf(
  server: S3Server,
  settings: S3StoreSettings & { storageTimeout?: number } = {},
): Handler {
  const { storageTimeout, ...store } = settings;
  const { endpoint, accessKeyId, secretAccessKey } = server;
  const credentials = { accessKeyId, secretAccessKey };
  const stores = new Map([[`s3://${BUCKET}`, { endpoint, credentials, ...store }]]);
  return createS3Handler({ stores, ...(storageTimeout === undefined ? {} : { storageTimeout }) });
}

/** A cleanup of a key or, ending with a slash, a prefix. */
export function cleanup(key: string): Cleanup {
  return { id: key, target: parseTarget(`${ROOT}${key}`), root: ROOT, pruneParents: 0, attempt: 0 };
}

/** Like `cleanup`, for keys that no target may name and only a listing finds. */
export function unchecked(key: string, bucket = BUCKET): Cleanup {
  const target = {
    text: `s3://${bucket}/${key}`,
    scheme: 's3',
    authority: bucket,
    store: `s3://${bucket}`,
    path: key,
    tree: false,
  };
  // A root that everything lies in, so that what is tested is the last line of defence.
  return { id: '1', target, root: 's3://', pruneParents: 0, attempt: 0 };
}

/** So many keys below a prefix, in order of listing. */
export function keysBelow(prefix: string, count: number): string[] {
  return Array.from({ length: count }, (_, n) => `${prefix}${String(n).padStart(6, '0')}`);
}
