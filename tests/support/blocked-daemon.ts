/**
 * Run as a worker thread: a daemon with an event loop of its own, which its handler blocks, within a storage call, until the
 * gate opens. Tells its events to whoever started it.
 */
import { parentPort, workerData } from 'node:worker_threads';
import { createReconciler } from '../../src/reconciler/reconciler.ts';
import { DELETED, fakeHandler } from './fake-handler.ts';

export interface BlockedDaemonOptions {
  readonly databaseUrl: string;
  /** In ms. */
  readonly lease: number;
  /** One Int32: 0 is shut. */
  readonly gate: SharedArrayBuffer;
}

export interface BlockedDaemonMessage {
  /** `deleting`: a storage call; else an event of the reconciler. */
  readonly event: string;
  readonly target?: string;
}

const { databaseUrl, lease, gate } = workerData as BlockedDaemonOptions;
const tell = (event: string, target?: string) =>
  parentPort?.postMessage({
    event,
    ...(target === undefined ? {} : { target }),
  } satisfies BlockedDaemonMessage);

const handler = fakeHandler(({ target }) => {
  tell('deleting', target.text);
  Atomics.wait(new Int32Array(gate), 0, 0);
  return DELETED;
});
const reconciler = createReconciler({
  databaseUrl,
  roots: ['fake://store/'],
  handlers: [handler],
  lease,
  concurrency: 1,
});
reconciler.events.on('lease_lost', () => tell('lease_lost'));
reconciler.events.on('cleanup_done', ({ target }) => tell('cleanup_done', target));
parentPort?.on('message', () => void reconciler.stop().then(() => parentPort?.close()));
await reconciler.start();
