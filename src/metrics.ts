/** The daemon's metrics. Label values come from the configuration, never from rows: there are as many series as stores. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

/** `yielded` ends no cleanup and is not counted as one; what it deleted and how long it took is. */
export type EndedOutcome = (typeof OUTCOMES)[number] | 'yielded';
export type WakeupCause = (typeof CAUSES)[number];
export type PausedBy = (typeof PAUSED_BY)[number];

const OUTCOMES = ['deleted', 'absent', 'kept', 'retry', 'blocked', 'dead'] as const;
const CAUSES = ['notify', 'timer', 'full'] as const;
const PAUSED_BY = ['breaker', 'operator', 'root', 'fuse'] as const;
const STATES = ['due', 'delayed', 'retrying', 'running', 'dead'] as const;

/** From a millisecond, one DeleteObjects on a near server, to ten minutes, a tree of millions of files. */
const DURATION_BUCKETS = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600,
];
/** From 5 ms, a wake-up by notification, to a day, what waited for somebody to act. */
const LAG_BUCKETS = [
  0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21_600, 86_400,
];

/** How old the database's gauges may be in a scrape, in ms: whoever scrapes how often. */
const REFRESH_INTERVAL = 1000;

/** What one cleanup did when it left a worker's hands. */
export interface EndedWork {
  /** Files and symlinks, or objects, that were deleted. */
  readonly objects: number;
  /** Bytes freed; null where the storage does not tell. */
  readonly bytes: number | null;
  /** Time in the handler, in s; left out when it never came to one, e.g. for `kept`. */
  readonly handlerSeconds?: number;
  /** From first due to done, in s; for what is done only. */
  readonly lagSeconds?: number;
}

/** What the metrics show of a row of the view `afterdelete.backlog`. */
export interface BacklogRow {
  readonly store: string;
  readonly due: number;
  readonly delayed: number;
  readonly retrying: number;
  readonly running: number;
  readonly dead: number;
  /** Null when nothing is due. */
  readonly oldest_due_seconds: number | null;
}

export interface MetricsOptions {
  /** The configured stores: all series of theirs stand at 0 from the first scrape, so that rates miss nothing. */
  readonly stores: readonly string[];
  /** Whether those of the Node process are served too (default: yes). */
  readonly defaultMetrics?: boolean;
  /**
   * Reads the database and calls `setBacklog` and `setUnserved`. Called before a scrape, at most once a second. When it
   * fails, the scrape goes on without the database's gauges: none is better than one that is no longer true.
   */
  readonly refresh?: () => Promise<void>;
  /** How long a scrape waits for `refresh`, in ms (default: 5,000; Prometheus itself gives up after 10,000). */
  readonly refreshTimeout?: number;
  /** Told when `refresh` fails. */
  readonly onError?: (error: Error) => void;
  /** A monotonic clock, in ms. */
  readonly now?: () => number;
}

/** Stores that are not configured are passed over by every method. */
export interface Metrics {
  /** A cleanup left this worker's hands. */
  cleanupEnded(store: string, outcome: EndedOutcome, work: EndedWork): void;
  /** The claim loop woke up. */
  wakeup(cause: WakeupCause): void;
  /** A store was paused or resumed. */
  paused(store: string, by: PausedBy, paused: boolean): void;
  /** Whether LISTEN is known to be alive. */
  listening(alive: boolean): void;
  /** All rows of the view; a configured store without one has nothing waiting. */
  setBacklog(rows: readonly BacklogRow[]): void;
  /** Rows of stores that no live worker serves. */
  setUnserved(rows: number): void;
  /** All metrics, in Prometheus' text format. */
  text(): Promise<string>;
  /** What `text` is, for the Content-Type header. */
  readonly contentType: string;
}

export function createMetrics(options: MetricsOptions): Metrics {
  const {
    defaultMetrics = true,
    refresh,
    refreshTimeout = 5000,
    onError,
    now = () => performance.now(),
  } = options;
  const stores = new Set(options.stores);
  // Not the library's global registry: a program that embeds a reconciler has metrics of its own in that.
  const registry = new Registry();
  const registers = [registry];
  const backlog = new Gauge({
    name: 'afterdelete_backlog_rows',
    help: 'Rows of the outbox by state, of the stores that this daemon serves, whichever daemon has them: use max by (store, state).',
    labelNames: ['store', 'state'],
    registers,
  });
  const oldestDue = new Gauge({
    name: 'afterdelete_oldest_due_seconds',
    help: 'Seconds since the oldest row was first due, retrying and running ones included; 0 when none is.',
    labelNames: ['store'],
    registers,
  });
  const cleanups = new Counter({
    name: 'afterdelete_cleanups_total',
    help: 'Attempts at cleanups by this daemon, by outcome.',
    labelNames: ['store', 'outcome'],
    registers,
  });
  const objectsDeleted = new Counter({
    name: 'afterdelete_objects_deleted_total',
    help: 'Files and symlinks, or objects, that this daemon deleted.',
    labelNames: ['store'],
    registers,
  });
  const bytesFreed = new Counter({
    name: 'afterdelete_bytes_freed_total',
    help: 'Bytes that this daemon freed, as far as the storage tells.',
    labelNames: ['store'],
    registers,
  });
  const duration = new Histogram({
    name: 'afterdelete_cleanup_duration_seconds',
    help: 'Time of a cleanup in the handler.',
    labelNames: ['store'],
    buckets: DURATION_BUCKETS,
    registers,
  });
  const lag = new Histogram({
    name: 'afterdelete_lag_seconds',
    help: 'From first due to done.',
    labelNames: ['store'],
    buckets: LAG_BUCKETS,
    registers,
  });
  const wakeups = new Counter({
    name: 'afterdelete_wakeups_total',
    help: 'Why the claim loop woke up: a notification, a timer, or because the last claim was full.',
    labelNames: ['cause'],
    registers,
  });
  const pausedGauge = new Gauge({
    name: 'afterdelete_store_paused',
    help: '1 while this daemon leaves the store alone, by what paused it.',
    labelNames: ['store', 'by'],
    registers,
  });
  const listeningGauge = new Gauge({
    name: 'afterdelete_listening',
    help: '1 while LISTEN is known to be alive.',
    registers,
  });
  const unserved = new Gauge({
    name: 'afterdelete_unserved_rows',
    help: 'Rows of stores that no live worker serves, in any state but done.',
    registers,
  });
  // Its event-loop monitor wakes the process by a timer; with the default of 10 ms it was most of what an idle daemon used.
  if (defaultMetrics) collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: 100 });

  for (const store of stores) {
    for (const outcome of OUTCOMES) cleanups.inc({ store, outcome }, 0);
    for (const by of PAUSED_BY) pausedGauge.set({ store, by }, 0);
    for (const counter of [objectsDeleted, bytesFreed]) counter.inc({ store }, 0);
    for (const histogram of [duration, lag]) histogram.zero({ store });
  }
  for (const cause of CAUSES) wakeups.inc({ cause }, 0);

  function setBacklog(rows: readonly BacklogRow[]): void {
    const byStore = new Map(rows.map(row => [row.store, row]));
    for (const store of stores) {
      const row = byStore.get(store);
      for (const state of STATES) backlog.set({ store, state }, row?.[state] ?? 0);
      oldestDue.set({ store }, row?.oldest_due_seconds ?? 0);
    }
  }
  setBacklog([]);

  function forgetDatabase(): void {
    backlog.reset();
    oldestDue.reset();
    // Not reset(): that leaves a gauge without labels at 0.
    unserved.remove();
  }

  // Tens of thousands a second, and the library takes its time with each: what only adds up is counted here, and told when
  // somebody looks.
  const tallies = new Map(
    [...stores].map(store => [
      store,
      {
        outcomes: Object.fromEntries(OUTCOMES.map(outcome => [outcome, 0])) as Record<
          (typeof OUTCOMES)[number],
          number
        >,
        objects: 0,
        bytes: 0,
        duration: duration.labels({ store }),
        lag: lag.labels({ store }),
      },
    ]),
  );

  function tellTallies(): void {
    for (const [store, tally] of tallies) {
      for (const outcome of OUTCOMES) {
        if (tally.outcomes[outcome] === 0) continue;
        cleanups.inc({ store, outcome }, tally.outcomes[outcome]);
        tally.outcomes[outcome] = 0;
      }
      objectsDeleted.inc({ store }, tally.objects);
      bytesFreed.inc({ store }, tally.bytes);
      [tally.objects, tally.bytes] = [0, 0];
    }
  }

  const refreshed = throttled(refresh, refreshTimeout, now, error => {
    forgetDatabase();
    onError?.(error);
  });

  return {
    cleanupEnded(store, outcome, work) {
      const tally = tallies.get(store);
      if (tally === undefined) return;
      if (outcome !== 'yielded') tally.outcomes[outcome] += 1;
      tally.objects += work.objects;
      tally.bytes += work.bytes ?? 0;
      if (work.handlerSeconds !== undefined) tally.duration.observe(work.handlerSeconds);
      // The two ends of a lag may be read from two clocks.
      if (work.lagSeconds !== undefined) tally.lag.observe(Math.max(0, work.lagSeconds));
    },
    wakeup: cause => wakeups.inc({ cause }),
    paused(store, by, paused) {
      if (stores.has(store)) pausedGauge.set({ store, by }, paused ? 1 : 0);
    },
    listening: alive => listeningGauge.set(alive ? 1 : 0),
    setBacklog,
    setUnserved: rows => unserved.set(rows),
    async text() {
      await refreshed();
      tellTallies();
      return await registry.metrics();
    },
    contentType: registry.contentType,
  };
}

/**
 * `refresh`, at most once a second and once at a time, whoever asks. The function returned never rejects and ends within
 * the timeout; a refresh that takes longer goes on, and no other is started beside it.
 */
function throttled(
  refresh: (() => Promise<void>) | undefined,
  timeout: number,
  now: () => number,
  failed: (error: Error) => void,
): () => Promise<void> {
  let running: Promise<void> | undefined;
  let waiting: Promise<void> | undefined;
  let freshUntil = Number.NEGATIVE_INFINITY;

  async function run(work: () => Promise<void>): Promise<void> {
    try {
      // Started a moment later: what throws at once would end this run before `running` is set.
      await Promise.resolve().then(work);
    } catch (error) {
      failed(error instanceof Error ? error : new Error(String(error)));
    } finally {
      freshUntil = now() + REFRESH_INTERVAL;
      running = undefined;
    }
  }

  async function wait(work: Promise<void>): Promise<void> {
    const { promise: tooLate, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(() => {
      failed(new Error(`the database did not tell its backlog within ${timeout} ms`));
      resolve();
    }, timeout);
    await Promise.race([work, tooLate]);
    clearTimeout(timer);
    waiting = undefined;
  }

  return async () => {
    if (refresh === undefined || (running === undefined && now() < freshUntil)) return;
    running ??= run(refresh);
    waiting ??= wait(running);
    await waiting;
  };
}
