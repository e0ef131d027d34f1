/** The daemon's HTTP endpoint: metrics, and whether it lives and works. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { redact } from './redact.ts';

export type Readiness = { readonly ok: true } | { readonly ok: false; readonly reason: string };

export interface HttpOptions {
  /** `port` 0 lets the system choose one. */
  readonly listen: { readonly host: string; readonly port: number };
  readonly metrics: { text(): Promise<string>; readonly contentType: string };
  /** Whether the database is reachable and the claim loop runs. */
  readonly ready: () => Promise<Readiness>;
  /** Told when an answer could not be made. */
  readonly onError: (error: Error) => void;
}

export interface HttpEndpoint {
  /** E.g. `http://127.0.0.1:9464`, with the port that is really used. */
  readonly url: string;
  /** Stops listening and ends all connections, those kept alive too; what is being answered has a second to end. */
  close(): Promise<void>;
}

/** The endpoint cannot listen where it should. The message names the setting and says what to do. */
export class HttpListenError extends Error {
  override readonly name = 'HttpListenError';
}

interface Answer {
  readonly status: number;
  readonly body: string;
  readonly headers?: Readonly<Record<string, string>>;
}

type Route = (options: HttpOptions) => Promise<Answer>;

const ENDPOINTS = `GET /metrics  Prometheus metrics
GET /healthz  200 while the process lives
GET /readyz   200 while the database is reachable and the claim loop runs, else 503 with the reason
`;

/** How long answers under way may take after `close`, in ms. */
const CLOSE_GRACE = 1000;

/** @throws HttpListenError when the address cannot be listened on. */
export async function startHttp(options: HttpOptions): Promise<HttpEndpoint> {
  let closing: Promise<void> | undefined;
  const server = createServer(async (request, response) => {
    const answer = await answerTo(request, options);
    send(response, answer, closing !== undefined);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', error => reject(listenError(error, options.listen)));
    server.listen(options.listen.port, options.listen.host, resolve);
  });
  server.removeAllListeners('error');
  server.on('error', options.onError);

  const { address, family, port } = server.address() as AddressInfo;
  return {
    url: `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`,
    close() {
      closing ??= new Promise(resolve => {
        const impatient = setTimeout(() => server.closeAllConnections(), CLOSE_GRACE);
        server.close(() => {
          clearTimeout(impatient);
          resolve();
        });
        server.closeIdleConnections();
      });
      return closing;
    },
  };
}

async function answerTo(request: IncomingMessage, options: HttpOptions): Promise<Answer> {
  const [path = '/'] = (request.url ?? '/').split('?', 1);
  const answer = ROUTES.get(path);
  if (answer === undefined) return { status: 404, body: `not found; there is:\n${ENDPOINTS}` };
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    return { status: 405, body: 'only GET and HEAD\n', headers: { allow: 'GET, HEAD' } };
  }
  try {
    return await answer(options);
  } catch (error) {
    options.onError(error instanceof Error ? error : new Error(String(error)));
    return path === '/readyz'
      ? { status: 503, body: 'the check of readiness failed; the log says why\n' }
      : { status: 500, body: 'internal error; the log says why\n' };
  }
}

const ROUTES: ReadonlyMap<string, Route> = new Map<string, Route>([
  ['/metrics', serveMetrics],
  ['/healthz', async () => ({ status: 200, body: 'ok\n' })],
  ['/readyz', serveReadiness],
]);

async function serveMetrics({ metrics }: HttpOptions): Promise<Answer> {
  return { status: 200, body: await metrics.text(), headers: { 'content-type': metrics.contentType } };
}

async function serveReadiness({ ready }: HttpOptions): Promise<Answer> {
  const readiness = await ready();
  if (readiness.ok) return { status: 200, body: 'ok\n' };
  // Reasons come from errors, and errors of connections may carry the connection string.
  return { status: 503, body: `not ready: ${redact(readiness.reason)}\n` };
}

function send(response: ServerResponse, { status, body, headers }: Answer, closing: boolean): void {
  response.writeHead(status, {
    'content-type': 'text/plain; charset=utf-8',
    'content-length': Buffer.byteLength(body),
    'cache-control': 'no-store',
    ...(closing ? { connection: 'close' } : {}),
    ...headers,
  });
  // Node leaves the body out by itself when the request was a HEAD.
  response.end(body);
}

function listenError(error: NodeJS.ErrnoException, listen: HttpOptions['listen']): HttpListenError {
  const where = `${listen.host.includes(':') ? `[${listen.host}]` : listen.host}:${listen.port}`;
  const why =
    error.code === 'EADDRINUSE'
      ? 'another process listens there'
      : error.code === 'EACCES'
        ? 'this user may not listen there'
        : error.message;
  return new HttpListenError(
    `AFTERDELETE_HTTP: cannot listen on ${where}: ${why}. Choose another host:port, or \`off\` for no HTTP endpoint`,
    { cause: error },
  );
}
