/** The SDK's clients: one for each distinct setting, made when first needed. */
import { type ClientRequest, Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import type { Duplex } from 'node:stream';
import { S3Client, type S3ClientConfig } from '@aws-sdk/client-s3';
import { refuseStrangers, rememberDates } from './answers.ts';
import type { Checksum } from './checksums.ts';

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
  /**
   * The checksum that the first DeleteObjects has; a server that refuses it is sent the other one from then on. Default:
   * md5 where an endpoint is set, because everything that speaks S3 takes it; crc32 for AWS, some of whose buckets do not.
   */
  readonly checksum?: Checksum;
  /** `purge`: every version goes, and every delete marker. `keep`: what a plain delete leaves, stays. Default: keep. */
  readonly versions?: 'keep' | 'purge';
  /** `abort`: uploads of a key that were begun before its cleanup fell due, and never completed, go too. Default: abort. */
  readonly uploads?: 'keep' | 'abort';
  /** What was written after the cleanup fell due: `keep` it, at the price of a listing for each key. Default: delete. */
  readonly newer?: 'keep' | 'delete';
}

/** A client, and what to call the place it speaks to. */
export class Connection {
  /** The endpoint as it may stand in a message: without user and password. */
  readonly endpoint: string;
  /** Whether that is AWS itself. */
  readonly isAws: boolean;
  readonly #create: () => S3Client;
  #client: S3Client;

  constructor(endpoint: string | undefined, create: () => S3Client) {
    this.endpoint = endpoint?.replace(/\/\/[^/@]*@/, '//') ?? 'AWS';
    this.isAws = endpoint === undefined;
    this.#create = create;
    this.#client = create();
  }

  get client(): S3Client {
    return this.#client;
  }

  /** Has the credentials found anew: the SDK remembers them until they end by its own reckoning. */
  renew(old: S3Client): void {
    if (this.#client !== old) return;
    this.#client = this.#create();
    // Requests that are under way end with the client that they began with.
    setTimeout(() => old.destroy(), RENEWED_AFTER).unref();
  }

  close(): void {
    this.#client.destroy();
  }
}

/** For how long a client that was replaced is kept, in ms: no request takes longer. */
const RENEWED_AFTER = 60_000;

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
      const all = { ...settings, ...(endpoint === undefined ? {} : { endpoint }) };
      connection = new Connection(endpoint, () => createClient(all, this.#storageTimeout));
      this.#connections.set(key, connection);
    }
    return connection;
  }

  close(): void {
    for (const connection of this.#connections.values()) connection.close();
    this.#connections.clear();
  }
}

/** An empty variable is as good as none: compose files set them so. */
function endpointOfEnvironment(): string | undefined {
  const { AWS_IGNORE_CONFIGURED_ENDPOINT_URLS, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL } = process.env;
  if (AWS_IGNORE_CONFIGURED_ENDPOINT_URLS === 'true') return undefined;
  return AWS_ENDPOINT_URL_S3 || AWS_ENDPOINT_URL || undefined;
}

/**
 * The SDK keeps what it has read of ~/.aws/credentials for as long as the process lives: a client made because the old
 * credentials had expired would get them once more. Its providers take this from the client's settings, whose type lacks it.
 */
const FILES_READ_ANEW: object = { ignoreCache: true };

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
    ...FILES_READ_ANEW,
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(credentials === undefined ? {} : { credentials }),
  };
  const client = new S3Client(config);
  refuseStrangers(client);
  rememberDates(client);
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
