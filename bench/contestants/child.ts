/** One contestant at work, in a process of its own: the order as JSON in the first argument, what it tells by IPC. */
import type { Order } from './contestant.ts';
import { CONTESTANTS, type Name } from './index.ts';

export interface ChildOrder extends Order {
  readonly contestant: Name;
  /** Tell when so many jobs are handled. */
  readonly count?: number;
  /** Tell of each job that a handler was called with. */
  readonly each?: boolean;
}

/** Moments are in ms since 1970, so that two processes can be compared. */
export type Told =
  | { readonly kind: 'started'; readonly at: number }
  | { readonly kind: 'begun'; readonly at: number; readonly targets: readonly string[] }
  | {
      readonly kind: 'handled';
      readonly jobs: number;
      /** The last ones: of those before them all are settled. */
      readonly last: readonly string[];
      /** At its peak, in MB. */
      readonly rss: number;
      /** Since the start, in seconds. */
      readonly cpu: number;
    };

/** More than any contestant has handled and not settled at a time. */
const LAST = 20_000;

const now = () => performance.timeOrigin + performance.now();
const tell = (told: Told) => process.send?.(told);

const order = JSON.parse(process.argv[2] ?? '{}') as ChildOrder;
const last: string[] = [];
let jobs = 0;
let cpuAtStart = process.cpuUsage();

const reportHandled = () => {
  const { user, system } = process.cpuUsage(cpuAtStart);
  const rss = Math.round(process.resourceUsage().maxRSS / 1_024);
  const newest = jobs < LAST ? last.slice(0, jobs) : last;
  tell({ kind: 'handled', jobs, last: newest, rss, cpu: (user + system) / 1e6 });
};

const begin = await CONTESTANTS[order.contestant].load(order, {
  begun: targets => {
    if (order.each) tell({ kind: 'begun', at: now(), targets });
  },
  handled: ids => {
    const before = jobs;
    for (const id of ids) last[jobs++ % LAST] = id;
    if (order.count !== undefined && before < order.count && jobs >= order.count) reportHandled();
  },
});
let end: (() => Promise<void>) | undefined;
process.on('message', message => {
  if (message === 'report') reportHandled();
  if (message === 'end') void end?.().then(() => process.exit());
});
process.on('disconnect', () => process.exit());
cpuAtStart = process.cpuUsage();
const at = now();
end = await begin();
tell({ kind: 'started', at });
