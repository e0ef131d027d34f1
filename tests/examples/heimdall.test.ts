/** Heimdall's rules: what is deleted with a data set and with a job, what is not, and what the answers and logs say. */
import { describe, expect, it } from 'vitest';
import { logCleanups } from '../../examples/heimdall/monitoring.ts';
import { deleteDataset } from '../../examples/heimdall/service.ts';
import { countEvents, until } from '../support/reconciler.ts';
import { BUCKET, createDataset, finished, openHeimdall, REQUEST, runDaemon } from './heimdall-setup.ts';
import { audit, cleanups } from './support.ts';

const UNKNOWN = '550e8400-e29b-41d4-a716-446655440000';

describe('a data set', () => {
  it.each([
    ['synthetic/{id}/', (id: string) => id],
    ['synthetic/dataset-{id}/', (id: string) => `dataset-${id}`],
  ])(
    'of type iq_raw goes with its recordings under %s, and both patterns are looked under',
    async (_, directory) => {
      const scene = await openHeimdall();
      const dataset = await createDataset(scene, { directory });
      await runDaemon(scene);
      await deleteDataset(scene.heimdall, dataset.id);
      expect(await finished(scene)).toEqual({
        minio_files_deleted: dataset.files,
        bytes_freed: dataset.bytes,
        waiting: 0,
        failed: 0,
      });
      expect(scene.keys('')).toEqual([]);
      expect((await audit(scene.db)).map(row => row.outcome).sort()).toEqual(['absent', 'deleted']);
      expect(await scene.db.sql('SELECT FROM heimdall.synthetic_iq_samples')).toEqual([]);
    },
  );

  it('of type feature_based has no files, and MinIO is not asked', async () => {
    const scene = await openHeimdall();
    // Something lies where its files would be: it is not this data set's.
    const dataset = await createDataset(scene, { type: 'feature_based', name: 'features' });
    await deleteDataset(scene.heimdall, dataset.id);
    expect(await cleanups(scene.db)).toBe(0);
    expect(scene.keys(dataset.prefix)).toHaveLength(dataset.files);
    expect(await scene.db.sql('SELECT FROM heimdall.synthetic_training_samples')).toEqual([]);
    expect(scene.lines).toEqual([
      {
        event: 'synthetic_dataset_deleted',
        request_id: REQUEST,
        dataset_id: dataset.id,
        dataset_name: 'features',
        dataset_type: 'feature_based',
      },
    ]);
  });

  it('leaves its neighbours alone whose prefixes begin with its own', async () => {
    const scene = await openHeimdall();
    const { id, prefix } = await createDataset(scene);
    const neighbours = [
      `synthetic/${id}`,
      `synthetic/${id}0/sample-0/rx_0.npy`,
      `synthetic/dataset-${id}0/x`,
    ];
    for (const key of neighbours) scene.s3.buckets.put(BUCKET, key, 'iq');
    const other = await createDataset(scene, { samples: 1 });
    await runDaemon(scene);
    await deleteDataset(scene.heimdall, id);
    await finished(scene);
    expect(scene.keys(prefix)).toEqual([]);
    expect(neighbours.every(key => scene.s3.buckets.has(BUCKET, key))).toBe(true);
    expect(scene.keys(other.prefix)).toHaveLength(other.files);
  });

  it('whose id is written in capitals is the same data set, with the same files', async () => {
    const scene = await openHeimdall();
    const dataset = await createDataset(scene, { id: 'abcdef12-3456-4890-abcd-ef1234567890' });
    await runDaemon(scene);
    await deleteDataset(scene.heimdall, dataset.id.toUpperCase());
    expect(await finished(scene)).toMatchObject({ minio_files_deleted: dataset.files });
    expect(scene.keys('')).toEqual([]);
  });

  it.each([
    ['not-a-uuid', 400, 'dataset_id: expected a UUID, got "not-a-uuid"'],
    [`${UNKNOWN}/`, 400, `dataset_id: expected a UUID, got "${UNKNOWN}/"`],
    [UNKNOWN, 404, `Synthetic dataset not found: ${UNKNOWN}`],
  ])('%s is refused', async (id, status, detail) => {
    const { heimdall, db } = await openHeimdall();
    await expect(deleteDataset(heimdall, id)).rejects.toMatchObject({ status, body: { detail } });
    expect(await cleanups(db)).toBe(0);
  });
});

describe('the log', () => {
  it('has the lines that its people look for: minio_cleanup_complete, minio_cleanup_failed', async () => {
    const scene = await openHeimdall();
    const dataset = await createDataset(scene);
    let broken = true;
    scene.s3.faults.perKey(key =>
      broken && key.endsWith('rx_0.npy') ? { code: 'InternalError' } : undefined,
    );
    const daemon = await runDaemon(scene);
    logCleanups(daemon, scene.heimdall.log);
    const failed = countEvents(daemon, 'cleanup_retry', 1);
    await deleteDataset(scene.heimdall, dataset.id);
    await failed;
    broken = false;
    await finished(scene);
    // The row is done a moment before it is told.
    await until(
      () => scene.lines.some(({ event }) => event === 'minio_cleanup_complete'),
      'the line that tells of the end',
    );
    expect(scene.lines.find(({ event }) => event === 'minio_cleanup_failed')).toMatchObject({
      dataset_id: dataset.id,
      will_retry: true,
      error: expect.stringContaining('10 objects'),
    });
    expect(scene.lines).toContainEqual(
      expect.objectContaining({
        event: 'minio_cleanup_complete',
        dataset_id: dataset.id,
        outcome: 'deleted',
        files_deleted: dataset.files,
        bytes_freed: dataset.bytes,
      }),
    );
  });
});
