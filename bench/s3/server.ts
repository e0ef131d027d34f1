/** The project's own S3 server as a process of its own, for benchmarks; told what to do over the channel of `fork`. */
import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { startS3Server } from '../../tests/s3-server/server.ts';

export const BUCKET = 'bench';

/** What it can be asked to do. */
export type Order =
  /** So many objects of so many bytes under a prefix, named by number. */
  | { readonly do: 'fill'; readonly prefix: string; readonly objects: number; readonly bytes: number }
  | { readonly do: 'latency'; readonly ms: number }
  /** This share of keys is answered SlowDown. */
  | { readonly do: 'slow'; readonly share: number }
  /** What goes beyond so many keys a second is answered SlowDown. */
  | { readonly do: 'capacity'; readonly perSecond: number }
  | { readonly do: 'count' };

/** What it has seen since it was last filled. */
export interface Count {
  readonly left: number;
  readonly requests: number;
  /** Keys answered SlowDown, and all that were asked. */
  readonly slow: number;
  readonly asked: number;
}

export interface BenchServer {
  readonly env: Readonly<Record<string, string>>;
  tell(order: Order): Promise<Count>;
  close(): void;
}

/** Starts it. */
export async function startBenchServer(): Promise<BenchServer> {
  const child = fork(fileURLToPath(import.meta.url), ['serve']);
  const answer = () => new Promise<unknown>(resolve => child.once('message', resolve));
  const env = (await answer()) as Record<string, string>;
  return {
    env,
    tell: async order => {
      child.send(order);
      return (await answer()) as Count;
    },
    close: () => void child.disconnect(),
  };
}

async function serve(): Promise<void> {
  const server = await startS3Server({ buckets: [BUCKET], logged: 1 });
  let [requests, slow, asked] = [0, 0, 0];
  let wait = 0;
  server.faults.latency(() => {
    requests += 1;
    return wait;
  });
  const count = (refuses: () => boolean) =>
    server.faults.perKey(() => {
      asked += 1;
      if (!refuses()) return undefined;
      slow += 1;
      return { code: 'SlowDown', message: 'Please reduce your request rate.' };
    });
  process.on('message', (order: Order) => {
    switch (order.do) {
      case 'fill': {
        const body = Buffer.alloc(order.bytes, 'x');
        [requests, slow, asked] = [0, 0, 0];
        for (let n = 1; n <= order.objects; n++) server.buckets.put(BUCKET, `${order.prefix}${n}`, body);
        // Sorted now, and not when the first listing is timed.
        server.buckets.page(BUCKET, { prefix: order.prefix, after: '', limit: 1 });
        break;
      }
      case 'latency':
        wait = order.ms;
        break;
      case 'slow':
        count(() => Math.random() < order.share);
        break;
      case 'capacity': {
        let [tokens, at] = [order.perSecond / 4, performance.now()];
        count(() => {
          const now = performance.now();
          tokens = Math.min(order.perSecond / 4, tokens + ((now - at) / 1000) * order.perSecond);
          at = now;
          if (tokens < 1) return true;
          tokens -= 1;
          return false;
        });
        break;
      }
      case 'count':
        break;
    }
    process.send?.({ left: server.buckets.count(BUCKET), requests, slow, asked } satisfies Count);
  });
  process.once('disconnect', () => process.exit(0));
  process.send?.({
    AWS_ENDPOINT_URL_S3: server.endpoint,
    AWS_ACCESS_KEY_ID: server.accessKeyId,
    AWS_SECRET_ACCESS_KEY: server.secretAccessKey,
  });
}

if (process.argv[2] === 'serve') await serve();
