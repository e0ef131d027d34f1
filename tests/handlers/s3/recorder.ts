/** Stands between a handler and any S3 server, passes everything on as it is, and remembers what was asked. */
import { createServer, request as forward, type Server } from 'node:http';
import type { RequestRecord } from '../../s3-server/faults.ts';
import { understand } from '../../s3-server/operations.ts';

export interface Recorded extends RequestRecord {
  /** Path and query as they were on the wire. */
  readonly url: string;
  readonly body: string;
}

export interface Recorder {
  /** Where to send requests instead of the server itself. */
  readonly endpoint: string;
  /** What was asked, oldest first. */
  readonly requests: readonly Recorded[];
  forget(): void;
  close(): Promise<void>;
}

/** Starts one in front of an endpoint. */
export async function startRecorder(endpoint: string): Promise<Recorder> {
  const { hostname, port } = new URL(endpoint);
  const requests: Recorded[] = [];
  const server: Server = createServer(async (incoming, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of incoming) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    const { method = '', url = '', headers, rawHeaders } = incoming;
    requests.push({ ...understand(method, url, headers, body), url, body: body.toString('utf8') });
    // The Host that was signed goes on with the rest.
    const outgoing = forward(
      { hostname, port, method, path: url, headers: rawHeaders, agent: false },
      answer => {
        response.writeHead(answer.statusCode ?? 502, answer.rawHeaders);
        answer.pipe(response).on('error', () => answer.destroy());
      },
    );
    outgoing.on('error', () => response.destroy());
    outgoing.end(body);
  });
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (typeof address !== 'object' || !address) throw new Error('it listens nowhere');
  return {
    endpoint: `http://127.0.0.1:${address.port}`,
    requests,
    forget: () => {
      requests.length = 0;
    },
    close: async () => {
      const closed = new Promise<void>(resolve => server.close(() => resolve()));
      server.closeAllConnections();
      await closed;
    },
  };
}
