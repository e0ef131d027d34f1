/** The event loop of a daemon is blocked, by a handler of somebody's that does not let go. */
import { Worker } from 'node:worker_threads';
import { expect, it, onTestFinished } from 'vitest';
import type { BlockedDaemonMessage, BlockedDaemonOptions } from '../support/blocked-daemon.ts';
import { createBurst } from '../support/burst.ts';
import { createDatabase } from '../support/database.ts';
import { nextEvent, testReconciler, until } from '../support/reconciler.ts';

it('past the lease: another daemon takes over; the blocked one, once it goes on, deletes and settles nothing more, and works again', async () => {
  const db = await createDatabase();
  const burst = createBurst(db);
  await burst.write(20);
  const gate = new SharedArrayBuffer(4);
  const told: BlockedDaemonMessage[] = [];
  const heard = (event: string) => told.filter(message => message.event === event);
  const workerData: BlockedDaemonOptions = { databaseUrl: db.url, lease: 6_000, gate };
  const blocked = new Worker(new URL('../support/blocked-daemon.ts', import.meta.url), { workerData });
  blocked.on('message', message => told.push(message));
  const failed = new Promise<never>((_, reject) => blocked.once('error', reject));
  onTestFinished(async () => void (await blocked.terminate()));
  await Promise.race([failed, until(() => heard('deleting').length === 1, 'the storage call that blocks')]);

  const other = testReconciler({ databaseUrl: db.url, handlers: [burst.handler], lease: 6_000 });
  const reaped = nextEvent(other, 'reaped');
  await other.start();
  expect(await reaped).toEqual({ workers: 1, moved: 20, died: 0 });
  await burst.expectDone();

  Atomics.store(new Int32Array(gate), 0, 1);
  Atomics.notify(new Int32Array(gate), 0);
  await until(() => heard('lease_lost').length === 1, 'the blocked daemon to find out');
  expect(heard('deleting')).toHaveLength(1);
  expect(heard('cleanup_done')).toEqual([]);
  await burst.expectDone();

  await other.stop();
  await db.sql("SELECT afterdelete.enqueue('fake://store/after')");
  await until(() => heard('cleanup_done').length === 1, 'a cleanup of its own');
  expect(await db.sql('SELECT count(*)::int AS n FROM afterdelete.done_file_cleanup')).toEqual([{ n: 21 }]);
  const ended = new Promise(resolve => blocked.once('exit', resolve));
  blocked.postMessage('stop');
  await ended;
});
