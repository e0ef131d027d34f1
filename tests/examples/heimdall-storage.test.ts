/** Heimdall's troubles with its storage: what used to leave orphans behind, and now only takes time. */
import { expect, it } from 'vitest';
import { deleteDataset, deleteJob } from '../../examples/heimdall/service.ts';
import { SLOW_DOWN } from '../s3-server/server.ts';
import { countEvents, nextEvent, until } from '../support/reconciler.ts';
import {
  BUCKET,
  createDataset,
  createJob,
  finished,
  openHeimdall,
  REQUEST,
  runDaemon,
  startBuiltDaemon,
  statistics,
} from './heimdall-setup.ts';
import { audit } from './support.ts';

it('MinIO is down: the deletion succeeds, the files wait, and go when it is back', async () => {
  const scene = await openHeimdall();
  const job = await createJob(scene);
  const dataset = await createDataset(scene, { job });
  const daemon = await runDaemon(scene);
  const paused = nextEvent(daemon, 'store_paused');
  await scene.s3.stop();
  const deletion = await deleteJob(scene.heimdall, job, { deleteDataset: true });
  expect(deletion.datasets_deleted).toBe(1);
  expect(await paused).toMatchObject({ store: `s3://${BUCKET}`, by: 'breaker' });
  expect(await statistics(scene)).toEqual({
    minio_files_deleted: 0,
    bytes_freed: 0,
    waiting: 2,
    failed: 0,
  });
  expect(scene.keys(dataset.prefix)).toHaveLength(dataset.files);
  await scene.s3.start();
  expect(await finished(scene)).toEqual({
    minio_files_deleted: dataset.files,
    bytes_freed: dataset.bytes,
    waiting: 0,
    failed: 0,
  });
  // It was not the cleanups' fault: no attempt was counted against them.
  expect((await audit(scene.db)).map(({ attempt }) => attempt)).toEqual([1, 1]);
});

it('MinIO goes down in the middle: what is deleted is deleted, and the rest goes when it is back', async () => {
  const scene = await openHeimdall();
  const dataset = await createDataset(scene, { samples: 1000 });
  let batches = 0;
  scene.s3.faults.next({ kind: 'stop', when: 'before' }, 1, ({ operation }) => {
    if (operation === 'DeleteObjects') batches += 1;
    return batches === 2;
  });
  const daemon = await runDaemon(scene);
  const paused = nextEvent(daemon, 'store_paused');
  await deleteDataset(scene.heimdall, dataset.id);
  await paused;
  const left = scene.keys(dataset.prefix).length;
  expect(left).toBeGreaterThan(0);
  expect(left).toBeLessThan(dataset.files);
  await scene.s3.start();
  const { minio_files_deleted } = await finished(scene);
  expect(scene.keys('')).toEqual([]);
  // Never more than the truth; less, where the answer to a delete was lost with the connection.
  expect(minio_files_deleted).toBeGreaterThanOrEqual(left);
  expect(minio_files_deleted).toBeLessThanOrEqual(dataset.files);
});

it('some files are refused: the others are gone and counted; those go once they are refused no more', async () => {
  const scene = await openHeimdall();
  const dataset = await createDataset(scene, { samples: 40 });
  const refused = new Set([3, 17, 39].map(n => `${dataset.prefix}sample-${n}/rx_1.npy`));
  scene.s3.faults.perKey(key =>
    refused.has(key) ? { code: 'InternalError', message: 'bad disk' } : undefined,
  );
  const daemon = await runDaemon(scene);
  const first = nextEvent(daemon, 'cleanup_retry');
  const tried = countEvents(daemon, 'cleanup_retry', 3);
  await deleteDataset(scene.heimdall, dataset.id);
  expect((await first).error).toMatch(
    /^3 objects under .* could not be deleted \(117 were\); the first: .*rx_1\.npy.*InternalError: bad disk/,
  );
  await tried;
  expect(scene.keys('')).toEqual([...refused].sort());
  await until(
    async () => (await statistics(scene)).waiting === 1,
    'the other pattern, under which nothing is',
  );
  expect(await statistics(scene)).toEqual({
    minio_files_deleted: dataset.files - 3,
    bytes_freed: dataset.bytes - 3 * 400,
    waiting: 1,
    failed: 0,
  });
  // Three attempts make it something that a person should look at.
  const [stuck, ...others] = await scene.db.sql('SELECT * FROM afterdelete.stuck');
  expect(stuck).toMatchObject({
    reason: 'retrying',
    source: 'DELETE on heimdall.synthetic_datasets',
    actor: REQUEST,
    last_error: expect.stringContaining('InternalError: bad disk'),
  });
  expect(others).toEqual([]);
  refused.clear();
  expect(await finished(scene)).toEqual({
    minio_files_deleted: dataset.files,
    bytes_freed: dataset.bytes,
    waiting: 0,
    failed: 0,
  });
  expect(scene.keys('')).toEqual([]);
});

it('a task that used to fail once and stay: cleanup_retry in the log, then cleanup_done', async () => {
  const scene = await openHeimdall();
  const dataset = await createDataset(scene);
  const conflict = { ...SLOW_DOWN, status: 409, code: 'OperationAborted' };
  scene.s3.faults.next(conflict, 1, ({ operation }) => operation === 'DeleteObjects');
  const daemon = startBuiltDaemon(scene);
  await deleteDataset(scene.heimdall, dataset.id);
  const target = `s3://${BUCKET}/${dataset.prefix}`;
  expect(await daemon.waitFor('cleanup_retry')).toMatchObject({
    target,
    error: expect.stringContaining('OperationAborted'),
    next_attempt_at: expect.any(String),
  });
  expect(await daemon.waitFor('cleanup_done', line => line.target === target)).toMatchObject({
    outcome: 'deleted',
    attempt: 2,
    objects_deleted: dataset.files,
    bytes_freed: dataset.bytes,
  });
  const { text } = await daemon.get('/metrics');
  expect(text).toContain(`afterdelete_cleanups_total{store="s3://${BUCKET}",outcome="retry"} 1`);
  expect(text).toContain(`afterdelete_bytes_freed_total{store="s3://${BUCKET}"} ${dataset.bytes}`);
});

it('files that may not be deleted: cleanup_dead in the log and afterdelete.stuck say why; allowed, they go', async () => {
  const scene = await openHeimdall();
  const dataset = await createDataset(scene);
  const locked = `${dataset.prefix}sample-4/rx_2.npy`;
  scene.s3.faults.perKey(key => (key === locked ? { code: 'AccessDenied', message: 'locked' } : undefined));
  const daemon = startBuiltDaemon(scene);
  await deleteDataset(scene.heimdall, dataset.id);
  const dead = await daemon.waitFor('cleanup_dead');
  expect(dead).toMatchObject({ level: 50, error: expect.stringContaining(`"${locked}": `) });
  expect(await finished(scene)).toEqual({
    minio_files_deleted: dataset.files - 1,
    bytes_freed: dataset.bytes - 400,
    waiting: 0,
    failed: 1,
  });
  expect(await scene.db.sql('SELECT state, reason, last_error FROM afterdelete.stuck')).toEqual([
    { state: 'dead', reason: 'dead', last_error: dead.error },
  ]);
  scene.s3.faults.clear();
  await scene.db.sql('SELECT afterdelete.retry(id) FROM afterdelete.dead_file_cleanup');
  expect(await finished(scene)).toEqual({
    minio_files_deleted: dataset.files,
    bytes_freed: dataset.bytes,
    waiting: 0,
    failed: 0,
  });
  expect(scene.keys('')).toEqual([]);
});
