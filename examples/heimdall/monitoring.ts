/**
 * The lines of the log that Heimdall's people look for when something is not deleted, from a daemon that runs in the
 * same process. One that runs by itself writes `cleanup_done`, `cleanup_retry` and `cleanup_dead` to its own log.
 */
import type { Reconciler } from '../../src/index.ts';
import type { Heimdall } from './service.ts';

const IQ_PREFIX = /^s3:\/\/heimdall-synthetic-iq\/synthetic\/(?:dataset-)?([0-9a-f-]{36})\/$/;

export function logCleanups({ events }: Pick<Reconciler, 'events'>, log: Heimdall['log']): void {
  const about = ({ id, target }: { id: string; target: string }) => ({
    cleanup_id: id,
    target,
    dataset_id: IQ_PREFIX.exec(target)?.[1],
  });
  events.on('cleanup_done', event => {
    const { outcome, totalObjects, totalBytes } = event;
    log({
      event: 'minio_cleanup_complete',
      ...about(event),
      outcome,
      files_deleted: totalObjects ?? 0,
      bytes_freed: totalBytes ?? 0,
    });
  });
  // This try only: it comes back by itself.
  events.on('cleanup_retry', event => {
    log({ event: 'minio_cleanup_failed', ...about(event), error: event.error, will_retry: true });
  });
  events.on('cleanup_dead', event => {
    log({ event: 'minio_cleanup_failed', ...about(event), error: event.error, will_retry: false });
  });
}
