import { afterEach, describe, expect, it, vi } from 'vitest';
import { createS3Handler } from '../../../src/handlers/s3/index.ts';
import { BUCKET, cleanup, handlerOf, ROOT, setUp } from './support.ts';

afterEach(() => vi.unstubAllEnvs());

describe('settings', () => {
  it('are the environment where none are given', async () => {
    const { server, context } = await setUp();
    vi.stubEnv('AWS_ENDPOINT_URL_S3', server.endpoint);
    vi.stubEnv('AWS_ACCESS_KEY_ID', server.accessKeyId);
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', server.secretAccessKey);
    const handler = createS3Handler({ stores: new Map() });
    server.buckets.put(BUCKET, 'a');
    expect(await handler.delete([cleanup('a')], context)).toMatchObject([{ outcome: 'deleted' }]);
    expect(server.buckets.count(BUCKET)).toBe(0);
    await handler.close?.();
  });

  it('without credentials pause the store, with advice', async () => {
    const { server, context } = await setUp();
    vi.stubEnv('AWS_EC2_METADATA_DISABLED', 'true');
    vi.stubEnv('AWS_CONFIG_FILE', '/nonexistent/config');
    vi.stubEnv('AWS_SHARED_CREDENTIALS_FILE', '/nonexistent/credentials');
    const stores = new Map([[`s3://${BUCKET}`, { endpoint: server.endpoint }]]);
    const handler = createS3Handler({ stores });
    expect(await handler.delete([cleanup('a')], context)).toMatchObject([
      {
        outcome: 'unavailable',
        error: expect.stringMatching(/Could not load credentials.*; give the root `credentials`/),
      },
    ]);
    await handler.close?.();
  });

  it('of a wrong secret are refused, in words that do not give it away', async () => {
    const { server, context } = await setUp();
    const credentials = { accessKeyId: server.accessKeyId, secretAccessKey: 'not-the-secret' };
    const handler = handlerOf(server, { credentials });
    const [result] = await handler.delete([cleanup('a')], context);
    expect(result).toMatchObject({
      outcome: 'unavailable',
      error: expect.stringContaining('SignatureDoesNotMatch (HTTP 403)'),
    });
    expect(JSON.stringify(result)).not.toContain('not-the-secret');
    await expect(handler.probe(ROOT, context)).rejects.toMatchObject({
      kind: 'unavailable',
      message: expect.stringMatching(
        /could not list "" in bucket.*SignatureDoesNotMatch.*check the root's `credentials`/,
      ),
    });
    await handler.close?.();
  });
});
