/**
 * A small S3 of the project's own, for tests and the demo: in memory, in this process, with the faults that real ones
 * have. It checks what a client may get wrong (signature, checksums, XML, limits), where npm's emulators look away.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Answer } from './call.ts';
import { S3Error } from './errors.ts';
import { type Fault, Faults, type RequestRecord } from './faults.ts';
import { perform, understand } from './operations.ts';
import { type Credentials, decodeBody, verifySignature } from './signature.ts';
import { Buckets } from './store.ts';
import { errorDocument } from './xml.ts';

export {
  ACCESS_DENIED,
  type Fault,
  INTERNAL_ERROR,
  type KeyError,
  NOT_IMPLEMENTED,
  type RequestRecord,
  SLOW_DOWN,
  UNAVAILABLE,
} from './faults.ts';

export interface S3ServerOptions {
  /** Default: one that is free. */
  readonly port?: number;
  readonly accessKeyId?: string;
  readonly secretAccessKey?: string;
  /** Buckets to begin with. */
  readonly buckets?: readonly string[];
  /** How many requests the log keeps, the latest. Default: 10,000. */
  readonly logged?: number;
}

export interface S3Server extends Credentials {
  /** `http://127.0.0.1:PORT`; path style. The same after `start()`. */
  readonly endpoint: string;
  readonly port: number;
  /** What is stored; survives `stop()`. */
  readonly buckets: Buckets;
  readonly faults: Faults;
  /** What was asked, oldest first: every request that could be read, those with a wrong signature among them. */
  readonly requests: readonly RequestRecord[];
  /** Empties the log. */
  forgetRequests(): void;
  /** Cuts every connection and refuses new ones, until `start()`. */
  stop(): Promise<void>;
  /** Listens again, on the same port. */
  start(): Promise<void>;
}

/** Makes a server and starts it. */
export async function startS3Server(options: S3ServerOptions = {}): Promise<S3Server> {
  const server = new RunningServer(options);
  await server.start();
  return server;
}

class RunningServer implements S3Server {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly buckets = new Buckets();
  readonly faults = new Faults();
  readonly requests: RequestRecord[] = [];
  port: number;
  readonly #logged: number;
  readonly #http: Server;

  constructor(options: S3ServerOptions) {
    this.accessKeyId = options.accessKeyId ?? 'test-access-key';
    this.secretAccessKey = options.secretAccessKey ?? 'test-secret-key';
    this.port = options.port ?? 0;
    this.#logged = options.logged ?? 10_000;
    for (const bucket of options.buckets ?? []) this.buckets.createBucket(bucket);
    this.#http = createServer((request, response) => {
      this.#serve(request, response).catch(() => request.socket.destroy());
    });
  }

  get endpoint(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  forgetRequests(): void {
    this.requests.length = 0;
  }

  async start(): Promise<void> {
    if (this.#http.listening) return;
    await new Promise<void>((resolve, reject) => {
      this.#http.once('error', reject);
      this.#http.listen(this.port, '127.0.0.1', () => {
        this.#http.off('error', reject);
        const address = this.#http.address();
        if (typeof address === 'object' && address) this.port = address.port;
        resolve();
      });
    });
  }

  async stop(): Promise<void> {
    if (!this.#http.listening) return;
    const closed = new Promise<void>(resolve => this.#http.close(() => resolve()));
    this.#http.closeAllConnections();
    await closed;
  }

  async #serve(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = '', url = '', headers } = incoming;
    const chunks: Buffer[] = [];
    for await (const chunk of incoming) chunks.push(chunk);
    const raw = Buffer.concat(chunks);
    const received: { record?: RequestRecord; fault?: Fault | undefined } = {};
    let answer: Answer;
    try {
      const decoded = decodeBodyOrError({ headers, body: raw });
      const record = understand(method, url, headers, decoded.body);
      this.#log(record);
      received.record = record;
      const wait = this.faults.latencyOf(record);
      if (wait > 0) await new Promise(resolve => setTimeout(resolve, wait));
      received.fault = this.faults.take(record);
      if (received.fault && happensFirst(received.fault)) {
        await this.#fail(received.fault, record, response);
        return;
      }
      verifySignature({ method, url, headers, body: raw }, this);
      if (decoded.error) throw decoded.error;
      answer = perform({ ...decoded, request: record, buckets: this.buckets, faults: this.faults });
    } catch (error) {
      if (!(error instanceof S3Error)) throw error;
      answer = answerOf(error, received.record);
    }
    // A connection cut now leaves the client in doubt: everything has been done, and it does not know.
    if (received.fault && received.record) await this.#fail(received.fault, received.record, response);
    else send(response, answer, method);
  }

  #log(record: RequestRecord): void {
    this.requests.push(record);
    if (this.requests.length > this.#logged) this.requests.splice(0, this.requests.length - this.#logged);
  }

  async #fail(fault: Fault, record: RequestRecord, response: ServerResponse): Promise<void> {
    switch (fault.kind) {
      case 'error': {
        const error = new S3Error(fault.code, fault.message ?? fault.code, fault.status);
        return send(response, answerOf(error, record), record.method);
      }
      case 'error_in_200': {
        const error = new S3Error(fault.code, fault.message ?? fault.code, 200);
        return send(response, answerOf(error, record), record.method);
      }
      case 'raw':
        return send(response, fault, record.method);
      case 'reset':
        response.socket?.destroy();
        return;
      case 'hang':
        return;
      case 'stop':
        return await this.stop();
    }
  }
}

const happensFirst = (fault: Fault) => !('when' in fault) || fault.when === 'before';

function answerOf(error: S3Error, request: RequestRecord | undefined): Answer {
  const resource = `/${request?.bucket ?? ''}/${request?.keys[0] ?? ''}`;
  return { status: error.status, body: errorDocument(error.code, error.message, resource) };
}

/** A body that does not keep its promises is told of after the signature: who may not ask is told nothing else. */
function decodeBodyOrError(request: Parameters<typeof decodeBody>[0]) {
  try {
    return { ...decodeBody(request), error: undefined };
  } catch (error) {
    if (!(error instanceof S3Error)) throw error;
    return { body: request.body, checked: false, error };
  }
}

function send(response: ServerResponse, { status, headers, body = '' }: Answer, method: string): void {
  if (response.destroyed) return;
  const bytes = typeof body === 'string' ? Buffer.from(body, 'utf8') : body;
  const type = bytes.length > 0 ? { 'Content-Type': 'application/xml' } : {};
  const length = status === 204 ? {} : { 'Content-Length': String(bytes.length) };
  response.writeHead(status, { 'x-amz-request-id': 'test', ...type, ...length, ...headers });
  // An answer to HEAD has the headers of the body and not the body: its error has no code either.
  response.end(method === 'HEAD' ? undefined : bytes);
}
