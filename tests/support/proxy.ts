/** A TCP proxy that can go silent, be cut, and lead elsewhere: what networks and failovers do to connections. */
import { connect, createServer, type Socket } from 'node:net';
import { onTestFinished } from 'vitest';

export interface Proxy {
  /** The same connection string, by way of the proxy. */
  url: string;
  /**
   * Nothing passes any more, in either direction, on connections old and new, which stay open: as behind a firewall that
   * forgot them.
   */
  freeze(): void;
  /** New connections pass; the frozen ones stay silent for ever. */
  thaw(): void;
  /** All connections break, and new ones are refused. */
  cut(): void;
  /** New connections are accepted again. */
  mend(): void;
  /** New connections lead to the server of this connection string; old ones stay where they are. */
  moveTo(url: string): void;
}

export async function startProxy(url: string): Promise<Proxy> {
  let target = new URL(url);
  let frozen = false;
  let refusing = false;
  const sockets = new Set<Socket>();
  const server = createServer(client => {
    if (refusing) {
      client.destroy();
      return;
    }
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
  const breakAll = () => {
    for (const socket of sockets) socket.destroy();
  };
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    breakAll();
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
    cut() {
      refusing = true;
      breakAll();
    },
    mend() {
      refusing = false;
    },
    moveTo(other) {
      target = new URL(other);
    },
  };
}
