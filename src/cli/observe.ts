/** What the reconciler tells, as log lines and as metrics. */
import { WEAKER } from '../handlers/file/index.ts';
import { canPin } from '../handlers/file/pinned.ts';
import type { Logger } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import type { Outbox } from '../outbox/outbox.ts';
import type { CleanupEvent, ReconcilerEvents } from '../reconciler/events.ts';
import type { Reconciler } from '../reconciler/reconciler.ts';

type Listeners = {
  [Name in keyof ReconcilerEvents]?: (...event: ReconcilerEvents[Name]) => void;
};

type Source = Pick<Reconciler, 'events'>;

function listen(reconciler: Source, listeners: Listeners): void {
  for (const [name, listener] of Object.entries(listeners)) {
    reconciler.events.on(name as keyof ReconcilerEvents, listener as never);
  }
}

/** Says at the start, once for each root of files, that the system does not let them be deleted as safely as Linux does. */
export function warnOfWeakerRoots(roots: readonly string[], log: Logger, pinned = canPin()): void {
  if (pinned) return;
  for (const root of roots) {
    if (root.startsWith('file://')) log.warn({ event: 'weaker_root', root }, WEAKER);
  }
}

/** Writes one line an event; names and fields are those that the contract gives. */
export function logEvents(reconciler: Source, log: Logger): void {
  const troubles = new Troubles(log);
  listen(reconciler, {
    started: ({ worker, stores, roots }) => log.info({ event: 'started', worker, stores, roots }, 'started'),
    stopping: ({ inHand }) => log.info({ event: 'stopping', in_hand: inHand }, 'stopping'),
    stopped: ({ handedBack }) => log.info({ event: 'stopped', handed_back: handedBack }, 'stopped'),
    cleanup_done: event => {
      // There are tens of thousands of these a second, and none is written where nobody wants to read of success.
      if (!log.isLevelEnabled('info')) return;
      const { outcome, note, totalObjects, totalBytes } = event;
      const fields = {
        event: 'cleanup_done',
        id: event.id,
        target: event.target,
        outcome,
        attempt: event.attempt,
        objects_deleted: totalObjects,
        bytes_freed: totalBytes,
        ms: rounded(event.ms),
        ...(note === null ? {} : { note }),
      };
      log.info(fields, DONE[outcome]);
    },
    cleanup_retry: event => {
      const { error, nextAttemptAt } = event;
      const fields = { ...cleanup('cleanup_retry', event), error, next_attempt_at: nextAttemptAt };
      log.warn(fields, 'failed, will be tried again');
    },
    cleanup_blocked: event => {
      const { error, nextAttemptAt } = event;
      const fields = { ...cleanup('cleanup_blocked', event), error, next_attempt_at: nextAttemptAt };
      log.info(fields, 'not now, no fault of its own');
    },
    cleanup_yielded: event => {
      const fields = { ...cleanup('cleanup_yielded', event), objects_deleted: event.objects };
      log.debug(fields, 'not finished, goes on later');
    },
    cleanup_dead: event =>
      log.error(
        { ...cleanup('cleanup_dead', event), error: event.error },
        'given up: a person must look, then retry or discard it',
      ),
    cleanup_fenced: ({ id, target }) =>
      log.warn({ event: 'cleanup_fenced', id, target }, 'had been taken over meanwhile: nothing was changed'),
    store_paused: ({ store, by, reason }) => {
      const fields = { event: 'store_paused', store, by, reason };
      if (by === 'fuse') log.error(fields, 'store paused by the fuse: a person must look, then resume it');
      else log.warn(fields, 'store paused');
    },
    store_resumed: ({ store, by }) => log.info({ event: 'store_resumed', store, by }, 'store resumed'),
    listen_lost: ({ reason }) =>
      log.warn({ event: 'listen_lost', reason }, 'notifications do not arrive: polling instead'),
    listen_restored: () => log.info({ event: 'listen_restored' }, 'notifications arrive'),
    lease_lost: ({ worker, inHand }) =>
      log.warn({ event: 'lease_lost', worker, in_hand: inHand }, 'taken for vanished: registering anew'),
    schema_changed: ({ reason }) =>
      log.fatal({ event: 'schema_changed', reason }, 'the schema is of another version: the daemon ends'),
    reaped: ({ workers, moved, died }) =>
      log.warn({ event: 'reaped', workers, moved, died }, 'took over the rows of vanished workers'),
    trouble: event => troubles.log(event),
    recovered: ({ ms }) => {
      troubles.forget();
      log.info({ event: 'recovered', ms: rounded(ms) }, 'the database answers again');
    },
  });
}

/** While it lasts, a trouble is said again so often, in ms. */
const SAY_AGAIN = 600_000;

/** While the database is away, everything fails again and again: each thing is said once, and the rest for who debugs. */
class Troubles {
  readonly #log: Logger;
  readonly #said = new Map<string, number>();

  constructor(log: Logger) {
    this.#log = log;
  }

  log({ doing, error }: ReconcilerEvents['trouble'][0]): void {
    // "settling 12 rows" and "settling 13 rows" are the same trouble.
    const kind = doing.replaceAll(/\d+/g, 'N');
    const now = performance.now();
    const again = now - (this.#said.get(kind) ?? Number.NEGATIVE_INFINITY) < SAY_AGAIN;
    if (!again) this.#said.set(kind, now);
    const fields = { event: 'trouble', doing, ...summary(error) };
    if (again) this.#log.debug(fields, `${doing} failed again`);
    else this.#log.warn(fields, `${doing} failed; it is tried again`);
  }

  /** It is over: the next one is news. */
  forget(): void {
    this.#said.clear();
  }
}

/** What a person needs: for what has a code, from PostgreSQL or the system, no stack. pg hangs its whole client on some. */
function summary(error: unknown): { error: string; code?: string; stack?: string } {
  if (!(error instanceof Error)) return { error: String(error) };
  if ('code' in error && typeof error.code === 'string') return { error: error.message, code: error.code };
  return { error: error.message, ...(error.stack === undefined ? {} : { stack: error.stack }) };
}

/** Missing is success, and a log line says so. */
const DONE = {
  deleted: 'deleted',
  absent: 'was already gone',
  kept: 'kept: a live row holds it',
} as const;

function cleanup(event: string, { id, target, attempt }: CleanupEvent) {
  return { event, id, target, attempt };
}

/** Microseconds are enough. */
const rounded = (ms: number) => Math.round(ms * 1000) / 1000;

/** Counts what happens. */
export function countEvents(reconciler: Source, metrics: Metrics): void {
  listen(reconciler, {
    cleanup_done: event =>
      metrics.cleanupEnded(event.store, event.outcome, { ...work(event), lagSeconds: event.lag / 1000 }),
    cleanup_retry: event => metrics.cleanupEnded(event.store, 'retry', work(event)),
    cleanup_blocked: event => metrics.cleanupEnded(event.store, 'blocked', work(event)),
    cleanup_yielded: event => metrics.cleanupEnded(event.store, 'yielded', work(event)),
    cleanup_dead: event => metrics.cleanupEnded(event.store, 'dead', work(event)),
    store_paused: ({ store, by }) => metrics.paused(store, by, true),
    store_resumed: ({ store, by }) => metrics.paused(store, by, false),
    listen_lost: () => metrics.listening(false),
    listen_restored: () => metrics.listening(true),
    wakeup: ({ cause }) => metrics.wakeup(cause),
  });
}

/** What never came to a handler took no time in one. */
function work({ objects, bytes, ms }: CleanupEvent) {
  return { objects, bytes, ...(ms > 0 ? { handlerSeconds: ms / 1000 } : {}) };
}

/** Reads what the database-wide gauges show. */
export async function refreshGauges(outbox: Pick<Outbox, 'backlog'>, metrics: Metrics): Promise<void> {
  const rows = (await outbox.backlog()).map(row => ({
    store: row.store,
    due: Number(row.due),
    delayed: Number(row.delayed),
    retrying: Number(row.retrying),
    running: Number(row.running),
    dead: Number(row.dead),
    oldest_due_seconds: row.oldest_due_seconds,
    served: row.served,
  }));
  metrics.setBacklog(rows);
  // Dead ones too: no other gauge shows those of a store that nobody serves.
  const unserved = rows.filter(row => !row.served);
  metrics.setUnserved(
    unserved.reduce((n, row) => n + row.due + row.delayed + row.retrying + row.running + row.dead, 0),
  );
}
