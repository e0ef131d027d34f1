/** What the reconciler tells, as log lines and as metrics. */
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

/** Writes one line an event; names and fields are those that the contract gives. */
export function logEvents(reconciler: Source, log: Logger): void {
  listen(reconciler, {
    started: ({ worker, stores, roots }) => log.info({ event: 'started', worker, stores, roots }, 'started'),
    stopping: ({ inHand }) => log.info({ event: 'stopping', in_hand: inHand }, 'stopping'),
    stopped: ({ handedBack }) => log.info({ event: 'stopped', handed_back: handedBack }, 'stopped'),
    cleanup_done: event => {
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
    store_paused: ({ store, by, reason }) =>
      log.warn({ event: 'store_paused', store, by, reason }, 'store paused'),
    store_resumed: ({ store, by }) => log.info({ event: 'store_resumed', store, by }, 'store resumed'),
    listen_lost: ({ reason }) =>
      log.warn({ event: 'listen_lost', reason }, 'notifications do not arrive: polling instead'),
    listen_restored: () => log.info({ event: 'listen_restored' }, 'notifications arrive'),
    lease_lost: ({ worker, inHand }) =>
      log.warn({ event: 'lease_lost', worker, in_hand: inHand }, 'taken for vanished: registering anew'),
    reaped: ({ workers, moved, died }) =>
      log.warn({ event: 'reaped', workers, moved, died }, 'took over the rows of vanished workers'),
    trouble: ({ doing, error }) => log.warn({ event: 'trouble', doing, error }, `${doing} failed`),
  });
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
