/** What a reconciler is made with, what it takes by default, and which settings contradict each other. */
import type { Handler } from '../handlers/contract.ts';
import type { Limit } from '../outbox/spending.ts';
import { quoteTarget, rootProblem, storeOf } from '../target.ts';
import type { Guard } from './guard.ts';

export interface ReconcilerOptions {
  /** PostgreSQL; may go through a transaction pooler. */
  readonly databaseUrl: string;
  /** A direct connection for LISTEN, or `off`: poll only. Default: `databaseUrl`. */
  readonly listenUrl?: string;
  /** Address prefixes inside which to delete; each ends with a slash, and none contains another. */
  readonly roots: readonly string[];
  /** What deletes, one for each scheme of the roots. */
  readonly handlers: readonly Handler[];
  /** Shown in the audit trail and in `afterdelete.stuck`. Default: host, process id and a random part. */
  readonly name?: string;
  /** Storage calls in flight, per store. Default: 16. */
  readonly concurrency?: number;
  /** Other numbers of storage calls in flight, by store, e.g. `s3://bucket`. */
  readonly storeConcurrency?: ReadonlyMap<string, number>;
  /** Rows or objects a second, by store, for storage that must not be hammered. Each daemon keeps to it by itself. */
  readonly storeRate?: ReadonlyMap<string, number>;
  /** Rows claimed and not yet settled, per store. Default: 4000. */
  readonly prefetch?: number;
  /** Attempts before a row is dead. Default: 20. */
  readonly maxAttempts?: number;
  /** Backoff: full jitter, doubling from base to cap, in ms. Default: 1 s and 1 h. */
  readonly retryBase?: number;
  readonly retryCap?: number;
  /** How long a worker that went silent keeps its rows, in ms. Default: 30 s. */
  readonly lease?: number;
  /** Safety poll when no notification comes, in ms; poll only: at most 1 s. Default: 30 s. */
  readonly poll?: number;
  /** Time for rows in hand after `stop()`, in ms. Default: 8 s. */
  readonly shutdownGrace?: number;
  /** How long done rows are kept, in ms; 0: not at all. Default: 30 days. */
  readonly history?: number;
  /** Time slice of a tree or prefix, in ms: then it goes back to the end of the queue. Default: 10 s. */
  readonly slice?: number;
  /**
   * Most cleanups of one root within a window, in ms, over all daemons: more pause its store until `afterdelete.resume()`,
   * which starts a new window. Default: off.
   */
  readonly fuse?: Limit | 'off';
  /** Asked before every batch about what no live row holds: a guard of your own, besides the watches of the database. */
  readonly guard?: Guard;
}

/** All settings, in force; and what follows from them. */
export interface Settings extends Required<Omit<ReconcilerOptions, 'name' | 'guard'>> {
  readonly stores: readonly string[];
  /** After how long a query counts as failed, in ms. */
  readonly queryTimeout: number;
  /** Longest a storage call may take, in ms. */
  readonly storageTimeout: number;
  /** What must be left of the lease when a storage call has taken its longest, in ms. */
  readonly margin: number;
}

const SECOND = 1_000;
const DAY = 86_400 * SECOND;

const DEFAULTS = {
  concurrency: 16,
  prefetch: 4_000,
  maxAttempts: 20,
  retryBase: SECOND,
  retryCap: 3_600 * SECOND,
  lease: 30 * SECOND,
  poll: 30 * SECOND,
  shutdownGrace: 8 * SECOND,
  history: 30 * DAY,
  slice: 10 * SECOND,
};

/** Longest poll of a daemon that hears no notifications, in ms. */
export const POLL_ONLY_MAX = SECOND;

/** @throws TypeError that names the setting, what was expected and what it got. */
export function resolveSettings({ guard: _, ...options }: ReconcilerOptions): Settings {
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  const all = {
    ...DEFAULTS,
    listenUrl: options.databaseUrl,
    fuse: 'off' as const,
    storeConcurrency: new Map<string, number>(),
    storeRate: new Map<string, number>(),
    ...given,
    roots: options.roots,
    handlers: options.handlers,
    databaseUrl: options.databaseUrl,
  };
  for (const name of ['concurrency', 'prefetch', 'maxAttempts'] as const) {
    if (!Number.isInteger(all[name]) || all[name] < 1) fail(name, 'a whole number from 1', all[name]);
  }
  for (const name of ['retryBase', 'retryCap', 'poll', 'shutdownGrace', 'history'] as const) {
    if (!Number.isFinite(all[name]) || all[name] < 0) fail(name, 'milliseconds, 0 or more', all[name]);
  }
  for (const [store, rate] of all.storeRate) {
    if (!(rate > 0)) fail('storeRate', `more than 0 a second for ${store}`, rate);
  }
  if (all.retryBase > all.retryCap) fail('retryBase', `at most retryCap (${all.retryCap})`, all.retryBase);
  if (!(all.lease >= 1_000)) fail('lease', 'at least 1000 milliseconds', all.lease);
  if (!(all.slice > 0)) fail('slice', 'more than 0 milliseconds', all.slice);
  checkFuse(all.fuse);
  checkRoots(all.roots, all.handlers);
  // With a heartbeat every quarter of the lease, three quarters are left when the next one is sent: the longest storage
  // call and the margin fit in, with a tenth of the lease for the heartbeat's own way.
  return {
    ...all,
    stores: [...new Set(all.roots.map(storeOf))],
    // A heartbeat that hangs must leave time for another.
    queryTimeout: Math.min(15_000, Math.max(1_000, all.lease / 2)),
    storageTimeout: all.lease / 2,
    margin: all.lease / 10,
  };
}

/** Longer windows are more than a person has in mind, and intervals of PostgreSQL end somewhere. */
const FUSE_WINDOW_MAX = 365 * DAY;

function checkFuse(fuse: Limit | 'off'): void {
  if (fuse === 'off') return;
  if (typeof fuse !== 'object' || fuse === null) fail('fuse', 'off, or { cleanups, window }', fuse);
  const { cleanups, window } = fuse;
  if (!Number.isSafeInteger(cleanups) || cleanups < 1)
    fail('fuse.cleanups', 'a whole number from 1', cleanups);
  if (!Number.isFinite(window) || window < SECOND || window > FUSE_WINDOW_MAX)
    fail('fuse.window', `milliseconds from ${SECOND} to ${FUSE_WINDOW_MAX}`, window);
}

function checkRoots(roots: readonly string[], handlers: readonly Handler[]): void {
  if (roots.length === 0) fail('roots', 'at least one root, e.g. file:///data/trainings/', 'none');
  for (const root of roots) {
    const problem = rootProblem(root);
    if (problem !== undefined) fail('roots', problem, quoteTarget(root));
    const scheme = root.slice(0, root.indexOf('://'));
    if (!handlers.some(handler => handler.scheme === scheme)) {
      const known = handlers.map(handler => `${handler.scheme}:`).join(', ');
      fail('roots', `a scheme that a handler deletes (${known})`, quoteTarget(root));
    }
    const other = roots.find(o => o !== root && root.startsWith(o));
    if (other !== undefined)
      fail('roots', `roots that do not contain one another`, `${root} inside ${other}`);
  }
}

function fail(name: string, expected: string, got: unknown): never {
  throw new TypeError(`${name}: expected ${expected}, got ${String(got)}`);
}
