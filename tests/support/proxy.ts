/** A TCP proxy that can go silent: connections stay open and nothing passes, as behind a firewall that forgot them. */
import { connect, createServer, type Socket } from 'node:net';
import { onTestFinished } from 'vitest';

export interface Proxy {
  /** The same connection string, by way of the proxy. */
  url: string;
  /** Nothing passes any more, in either direction, on connections old and new. */
  freeze(): void;
  /** New connections pass; the frozen ones stay silent for ever. */
  thaw(): void;
}

export async function startProxy(url: string): Promise<Proxy> {
  const target = new URL(url);
  let frozen = false;
  const sockets = new Set<Socket>();
  const server = createServer(client => {
    const upstream = connect(Number(target.port), target.hostname);
    let silent = frozen;
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(from);
      from.on('error', () => to.destroy());
      from.on('close', () => {
        sockets.delete(from);
        to.destroy();
      });
      from.on('data', data => {
        silent ||= frozen;
        if (!silent) to.write(data);
      });
    }
  });
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const address = server.address();
  const proxied = new URL(url);
  proxied.port = String(typeof address === 'object' && address ? address.port : 0);
  return {
    url: proxied.href,
    freeze() {
      frozen = true;
    },
    thaw() {
      frozen = false;
    },
  };
}
