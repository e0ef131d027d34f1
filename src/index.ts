/**
 * Files are deleted when, and only when, the database rows that hold them are gone.
 *
 * The writing side: name what is to be deleted in the transaction that deletes the record.
 *
 * ```ts
 * import { enqueue } from 'afterdelete';
 *
 * await db.transaction().execute(async tx => {
 *   await tx.deleteFrom('training').where('id', '=', id).execute();
 *   await enqueue(tx, `file:///data/trainings/${id}/`, { source: 'training deleted' });
 * });
 * ```
 *
 * The daemon is the command `afterdelete run`; or, with handlers of your own for further schemes, a part of your
 * program. Its database must have been migrated, by `afterdelete migrate` or `migrate()`.
 *
 * ```ts
 * import { createFileHandler, createReconciler } from 'afterdelete';
 *
 * const reconciler = createReconciler({
 *   databaseUrl: 'postgres://app@db/app',
 *   roots: ['file:///data/trainings/', 'gs://my-bucket/results/'],
 *   handlers: [createFileHandler(), myHandlerForGs],
 * });
 * reconciler.events.on('cleanup_dead', ({ target, error }) => console.error(target, error));
 * await reconciler.start();
 * process.once('SIGTERM', () => reconciler.stop());
 * ```
 */
export {
  type Cleanup,
  type Context,
  type Handler,
  type Inspection,
  NOTHING,
  type Receipt,
  type Result,
  resultOf,
  Stopped,
  StorageError,
  type StorageErrorKind,
} from './handlers/contract.ts';
export { createFileHandler, type FileHandlerOptions } from './handlers/file/index.ts';
export { createS3Handler, type S3HandlerOptions, type S3StoreSettings } from './handlers/s3/index.ts';
export { confirm, type EnqueueOptions, enqueue, type Queryable, type Writer } from './outbox/enqueue.ts';
export { type MigrateOptions, type Migration, migrate, SchemaMismatchError } from './outbox/migrate.ts';
export type {
  CleanupDone,
  CleanupEvent,
  CleanupPutBack,
  ReconcilerEvents,
  StoreEvent,
} from './reconciler/events.ts';
export type { Guard, Verdict } from './reconciler/guard.ts';
export type { ReconcilerOptions } from './reconciler/options.ts';
export { createReconciler, type Readiness, type Reconciler } from './reconciler/reconciler.ts';
export { InvalidTargetError, parseTarget, type Target } from './target.ts';
export { VERSION } from './version.ts';
