/** The SDK's clients: one for each distinct setting, made when first needed. */
import { type ClientRequest, Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import { type Duplex, Readable } from 'node:stream';
import { S3Client, type S3ClientConfig } from '@aws-sdk/client-s3';

/** How a bucket is reached. What is left out, the SDK takes from its own variables, files and roles. */
export interface S3StoreSettings {
  /** E.g. `https://minio.internal:9000`. Default: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, else AWS itself. */
  readonly endpoint?: string;
  /** Default: AWS_REGION, else `us-east-1`. */
  readonly region?: string;
  /** `endpoint/bucket/key` instead of `bucket.endpoint/key`. Default: true where an endpoint is set. */
  readonly forcePathStyle?: boolean;
  readonly credentials?: {
    readonly accessKeyId: string;
    readonly secretAccessKey: string;
    readonly sessionToken?: string;
  };
  /** `auto`: DeleteObjects, and DeleteObject once a server has said that it lacks the former. Default: auto. */
  readonly deleteMode?: 'auto' | 'batch' | 'single';
}

/** A client, and what to call the place it speaks to. */
export interface Connection {
  readonly client: S3Client;
  /** The endpoint as it may stand in a message: without user and password. */
  readonly endpoint: string;
}

/** Connections, made when first asked for and shared by all stores with the same settings. */
export class Connections {
  readonly #connections = new Map<string, Connection>();
  readonly #storageTimeout: number | undefined;

  constructor(storageTimeout: number | undefined) {
    this.#storageTimeout = storageTimeout;
  }

  of(settings: S3StoreSettings): Connection {
    const { region, forcePathStyle, credentials } = settings;
    const endpoint = settings.endpoint ?? endpointOfEnvironment();
    const key = JSON.stringify([
      endpoint,
      region,
      forcePathStyle,
      credentials?.accessKeyId,
      credentials?.secretAccessKey,
      credentials?.sessionToken,
    ]);
    let connection = this.#connections.get(key);
    if (!connection) {
      connection = {
        client: createClient(
          { ...settings, ...(endpoint === undefined ? {} : { endpoint }) },
          this.#storageTimeout,
        ),
        endpoint: endpoint?.replace(/\/\/[^/@]*@/, '//') ?? 'AWS',
      };
      this.#connections.set(key, connection);
    }
    return connection;
  }

  close(): void {
    for (const { client } of this.#connections.values()) client.destroy();
    this.#connections.clear();
  }
}

/** An empty variable is as good as none: compose files set them so. */
function endpointOfEnvironment(): string | undefined {
  const { AWS_IGNORE_CONFIGURED_ENDPOINT_URLS, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL } = process.env;
  if (AWS_IGNORE_CONFIGURED_ENDPOINT_URLS === 'true') return undefined;
  return AWS_ENDPOINT_URL_S3 || AWS_ENDPOINT_URL || undefined;
}

function createClient(settings: S3StoreSettings, storageTimeout: number | undefined): S3Client {
  const { endpoint, credentials } = settings;
  const config: S3ClientConfig = {
    region: settings.region ?? (process.env.AWS_REGION || 'us-east-1'),
    forcePathStyle: settings.forcePathStyle ?? endpoint !== undefined,
    // The reconciler retries. Were the SDK to do so as well, the two would multiply.
    maxAttempts: 1,
    requestHandler: {
      // Concurrency is the context's: a socket must never be what a request waits for, its timeout running.
      httpAgent: new MarkingHttpAgent({ keepAlive: true }),
      httpsAgent: new MarkingHttpsAgent({ keepAlive: true }),
      // Behind the context's own time limit, for calls that ignore its signal.
      ...(storageTimeout === undefined
        ? {}
        : { requestTimeout: storageTimeout, throwOnRequestTimeout: true }),
    },
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(credentials === undefined ? {} : { credentials }),
  };
  const client = new S3Client(config);
  refuseStrangers(client);
  return client;
}

/** Errors of requests whose connection had served another before. */
const ofReusedConnections = new WeakSet<Error>();

/**
 * Whether a request may have failed only because the server closed an idle connection at that very moment. It happens
 * to every client that keeps connections; the SDK's retries, which are off here, would hide it, and without them each
 * such request would count as an outage.
 */
export function isStaleConnection(error: unknown): boolean {
  return error instanceof Error && ofReusedConnections.has(error);
}

function mark(request: ClientRequest): void {
  request.prependListener('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'ECONNRESET' || error.code === 'EPIPE') ofReusedConnections.add(error);
  });
}

class MarkingHttpAgent extends HttpAgent {
  override reuseSocket(socket: Duplex, request: ClientRequest): void {
    super.reuseSocket(socket, request);
    mark(request);
  }
}

class MarkingHttpsAgent extends HttpsAgent {
  override reuseSocket(socket: Duplex, request: ClientRequest): void {
    super.reuseSocket(socket, request);
    mark(request);
  }
}

/** What the answer to a command begins with, if S3 gave it: the name of the root element, none for an empty body. */
const ROOT_ELEMENT: Readonly<Record<string, string>> = {
  DeleteObjectsCommand: 'DeleteResult',
  ListObjectsV2Command: 'ListBucketResult',
  DeleteObjectCommand: '',
};
const ROOT = /^\ufeff?\s*(?:(?:<\?[^>]*>|<!--.*?-->)\s*)*(?:<(?:[\w.-]+:)?([\w.-]+))?/s;

/**
 * To the SDK, any 2xx answer without the elements it looks for is an empty one: of a listing, "nothing is there"; of
 * DeleteObjects, "everything is deleted". A proxy's page, a web console or an empty body would pass as success, and so
 * would an `<Error>` that something follows, be it a line break [the SDK looks at the last 8 characters]. So the
 * answer is looked at before the SDK sees it.
 */
function refuseStrangers(client: S3Client): void {
  client.middlewareStack.add(
    (next, context) => async args => {
      const result = await next(args);
      const expected = ROOT_ELEMENT[context.commandName ?? ''];
      const response = result.response as { statusCode?: number; body?: unknown };
      const { statusCode = 0, body } = response;
      if (expected === undefined || statusCode < 200 || statusCode > 299) return result;
      const bytes = body instanceof Readable ? Buffer.concat(await body.toArray()) : Buffer.alloc(0);
      const text = bytes.toString('utf8');
      const [prologue, element = ''] = ROOT.exec(text.slice(0, 2000)) ?? ['', ''];
      const isEmpty = element === '' && prologue.length === text.length;
      if (element === 'Error') {
        response.statusCode = 503;
      } else if (element !== expected || (expected === '' && !isEmpty)) {
        const error = new Error(
          `the answer is ${isEmpty ? 'empty' : `no ${expected || 'empty one'} but begins with ${JSON.stringify(text.slice(0, 60))}`}`,
        );
        throw Object.assign(error, { $metadata: { httpStatusCode: statusCode } });
      }
      response.body = Readable.from([bytes]);
      return result;
    },
    { step: 'deserialize', priority: 'low', name: 'refuseStrangers' },
  );
}
