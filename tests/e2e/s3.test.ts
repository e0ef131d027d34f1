/** The built daemon on S3, with settings of its own for each bucket. */
import { writeFileSync } from 'node:fs';
import { expect, it, onTestFinished } from 'vitest';
import { startS3Server } from '../s3-server/server.ts';
import { startDaemon } from '../support/daemon.ts';
import { createDatabase } from '../support/database.ts';
import { createDisk } from '../support/disk.ts';

it('serves several endpoints with credentials and modes of their own, side by side', async () => {
  const db = await createDatabase();
  const disk = createDisk();
  const [one, two] = [
    await startS3Server({ buckets: ['one'], accessKeyId: 'one-key', secretAccessKey: 'one-secret' }),
    await startS3Server({ buckets: ['two'], accessKeyId: 'two-key', secretAccessKey: 'two-secret' }),
  ];
  onTestFinished(async () => {
    await one.stop();
    await two.stop();
  });
  const config = disk.at('config.yaml');
  writeFileSync(
    config,
    `roots:
  - uri: s3://one/
    endpoint: ${one.endpoint}
    credentials: { accessKeyId: ONE_KEY, secretAccessKey: ONE_SECRET }
    deleteMode: single
  - uri: s3://two/
    endpoint: ${two.endpoint}
    credentials: { accessKeyId: TWO_KEY, secretAccessKey: TWO_SECRET }
    versions: purge
`,
  );
  two.buckets.setVersioning('two', 'Enabled');
  for (const body of ['1', '22']) {
    for (const key of ['a', 'p/1', 'p/2']) {
      one.buckets.put('one', key, body);
      two.buckets.put('two', key, body);
    }
  }
  // Begun long before any cleanup fell due, and just now by somebody who writes anew.
  const longAgo = new Date(Date.now() - 3_600_000);
  const young = new Date(Date.now() + 3_600_000);
  for (const key of ['a', 'p/1']) for (const at of [longAgo, young]) one.buckets.beginUpload('one', key, at);
  const daemon = startDaemon({
    databaseUrl: db.url,
    args: ['--config', config],
    env: { ONE_KEY: 'one-key', ONE_SECRET: 'one-secret', TWO_KEY: 'two-key', TWO_SECRET: 'two-secret' },
  });
  await db.sql(
    `SELECT afterdelete.enqueue(t) FROM unnest(ARRAY['s3://one/a', 's3://one/p/', 's3://two/a', 's3://two/p/']) t`,
  );
  await daemon.count('cleanup_done', 4);
  const done = await db.sql(
    'SELECT target, outcome, objects_deleted::int AS objects, bytes_freed::int AS bytes FROM afterdelete.done_file_cleanup ORDER BY target',
  );
  expect(done).toEqual([
    { target: 's3://one/a', outcome: 'deleted', objects: 1, bytes: null },
    { target: 's3://one/p/', outcome: 'deleted', objects: 2, bytes: 4 },
    { target: 's3://two/a', outcome: 'deleted', objects: 2, bytes: 3 },
    { target: 's3://two/p/', outcome: 'deleted', objects: 4, bytes: 6 },
  ]);
  expect(one.buckets.count('one')).toBe(0);
  expect(one.buckets.uploads('one').map(({ key, initiated }) => [key, initiated])).toEqual([
    ['a', young],
    ['p/1', young],
  ]);
  expect(two.buckets.versions('two')).toEqual([]);
  expect(new Set(one.requests.map(({ operation }) => operation))).not.toContain('DeleteObjects');
});

it('with wrong credentials pauses the store, and no row dies or loses an attempt', async () => {
  const db = await createDatabase();
  const s3 = await startS3Server({ buckets: ['bucket'] });
  onTestFinished(() => s3.stop());
  for (const key of ['a', 'p/1']) s3.buckets.put('bucket', key);
  const env = {
    AWS_ENDPOINT_URL_S3: s3.endpoint,
    AWS_ACCESS_KEY_ID: s3.accessKeyId,
    AFTERDELETE_LEASE: '2s',
  };
  const roots = ['s3://bucket/'];
  const wrong = startDaemon({ databaseUrl: db.url, roots, env: { ...env, AWS_SECRET_ACCESS_KEY: 'wrong' } });
  await db.sql("SELECT afterdelete.enqueue('s3://bucket/a'), afterdelete.enqueue('s3://bucket/p/')");
  const paused = await wrong.waitFor('store_paused');
  expect(paused).toMatchObject({ by: 'breaker', reason: expect.stringContaining('SignatureDoesNotMatch') });
  await wrong.stop();
  expect(await db.sql('SELECT FROM afterdelete.dead_file_cleanup')).toEqual([]);
  const right = startDaemon({
    databaseUrl: db.url,
    roots,
    env: { ...env, AWS_SECRET_ACCESS_KEY: s3.secretAccessKey },
  });
  await db.sql('SELECT afterdelete.retry(id) FROM afterdelete.pending_file_cleanup');
  await right.count('cleanup_done', 2);
  const done = await db.sql('SELECT attempt FROM afterdelete.done_file_cleanup');
  expect(done).toEqual([{ attempt: 1 }, { attempt: 1 }]);
  expect(s3.buckets.count('bucket')).toBe(0);
});
