import { describe, expect, it } from 'vitest';
import { ACCESS_DENIED, INTERNAL_ERROR, SLOW_DOWN, UNAVAILABLE } from '../../s3-server/server.ts';
import { createTestContext } from '../context.ts';
import { BUCKET, setUp } from './support.ts';

describe('a request that fails as a whole', () => {
  const cases = [
    [SLOW_DOWN, 'blocked'],
    [UNAVAILABLE, 'unavailable'],
    [INTERNAL_ERROR, 'unavailable'],
    [ACCESS_DENIED, 'dead'],
    [{ kind: 'error', code: 'XSomethingNew', status: 400 }, 'retry'],
    [{ kind: 'error', code: 'MethodNotAllowed' }, 'dead'],
    [{ kind: 'error', code: 'PermanentRedirect', status: 301 }, 'unavailable'],
    [{ kind: 'error', code: 'OperationAborted', status: 409 }, 'retry'],
    [{ kind: 'error_in_200', code: 'SlowDown' }, 'blocked'],
    [{ kind: 'error_in_200', code: 'InternalError' }, 'unavailable'],
    [{ kind: 'raw', status: 200, body: '<Error><Code>SlowDown</Code></Error>\n' }, 'blocked'],
    [{ kind: 'raw', status: 200, body: '<!doctype html><html><body>Welcome</body></html>' }, 'unavailable'],
    [{ kind: 'raw', status: 404, body: '404 page not found' }, 'unavailable'],
    [{ kind: 'raw', status: 403, body: '<html>Forbidden</html>' }, 'unavailable'],
    [{ kind: 'raw', status: 502, body: 'Bad Gateway' }, 'unavailable'],
    [{ kind: 'raw', status: 429, body: '' }, 'blocked'],
    [{ kind: 'reset', when: 'before' }, 'unavailable'],
    [{ kind: 'reset', when: 'after_commit' }, 'unavailable'],
    [{ kind: 'stop', when: 'before' }, 'unavailable'],
  ] as const;
  for (const deleteMode of ['batch', 'single'] as const) {
    it.each(cases)(`deleteMode ${deleteMode}: %j is %s`, async (fault, outcome) => {
      const { server, runOne } = await setUp({ deleteMode });
      server.buckets.put(BUCKET, 'a');
      // One key that a server stumbles over is no outage, where that key is all that was asked for; it is tried twice.
      const itself = deleteMode === 'single' && 'code' in fault && fault.code === 'InternalError';
      server.faults.next(fault, itself ? 2 : 1);
      const result = await runOne('a');
      expect(result).toMatchObject({ outcome: itself ? 'retry' : outcome, objects: 0 });
      expect(result).toMatchObject({
        error: expect.stringContaining(server.endpoint.slice('http://'.length)),
      });
    });
  }

  it.each(['ExpiredToken', 'InvalidAccessKeyId', 'SignatureDoesNotMatch', 'RequestTimeTooSkewed'])(
    'with %s is sent again at once; when that does not help, the store pauses',
    async code => {
      const { server, runOne, requests } = await setUp();
      server.buckets.put(BUCKET, 'a');
      server.faults.next({ kind: 'error', code, status: 400 });
      expect(await runOne('a')).toMatchObject({ outcome: 'deleted' });
      expect(requests('DeleteObjects')).toHaveLength(2);
      server.forgetRequests();
      server.faults.next({ kind: 'error', code, status: 400 }, 2);
      expect(await runOne('b')).toMatchObject({
        outcome: 'unavailable',
        error: expect.stringContaining(code),
      });
      expect(requests('DeleteObjects')).toHaveLength(2);
    },
  );

  it('is not taken for success because the answer is empty', async () => {
    const { server, runOne } = await setUp();
    server.faults.next({ kind: 'raw', status: 200, body: '' });
    expect(await runOne('a')).toMatchObject({
      outcome: 'unavailable',
      error: expect.stringContaining('is empty'),
    });
  });

  it('is all told in the message: what, where, what came back', async () => {
    const { server, runOne } = await setUp();
    server.faults.next(UNAVAILABLE);
    expect(await runOne('a')).toMatchObject({
      error: `could not delete from bucket "test-bucket" at ${server.endpoint}: ServiceUnavailable (HTTP 503): Service is unable to handle request.`,
    });
    await server.stop();
    expect(await runOne('a')).toMatchObject({
      outcome: 'unavailable',
      error: expect.stringContaining(`connect ECONNREFUSED 127.0.0.1:${server.port}`),
    });
  });

  it('is over when the store is back', async () => {
    const { server, runOne } = await setUp();
    server.buckets.put(BUCKET, 'a');
    await server.stop();
    expect(await runOne('a')).toMatchObject({ outcome: 'unavailable' });
    await server.start();
    expect(await runOne('a')).toMatchObject({ outcome: 'deleted' });
    expect(server.buckets.count(BUCKET)).toBe(0);
  });

  it('is sent again at once if only an idle connection had gone stale', async () => {
    const { server, runOne, requests } = await setUp();
    await runOne('first');
    server.faults.next({ kind: 'reset', when: 'before' });
    expect(await runOne('a')).toMatchObject({ outcome: 'deleted' });
    expect(requests('DeleteObjects').map(({ keys }) => keys)).toEqual([['first'], ['a'], ['a']]);
  });

  it('is safe to repeat when it had been done', async () => {
    const { server, runOne } = await setUp();
    server.buckets.put(BUCKET, 'a');
    server.faults.next({ kind: 'reset', when: 'after_commit' });
    expect(await runOne('a')).toMatchObject({ outcome: 'unavailable', objects: 0 });
    expect(server.buckets.has(BUCKET, 'a')).toBe(false);
    expect(await runOne('a')).toMatchObject({ outcome: 'deleted' });
  });

  it('ends when it takes too long', async () => {
    const { server, runOne } = await setUp();
    server.faults.when(() => true, { kind: 'hang', when: 'before' });
    const context = createTestContext({ timeout: 100 });
    for (const key of ['a', 'a/']) {
      expect(await runOne(key, context)).toMatchObject({
        outcome: 'unavailable',
        error: expect.stringMatching(/did not answer within 100 ms/),
      });
    }
  });

  it('ends by the storage timeout where a context sets no limit', async () => {
    const { server, runOne } = await setUp({ storageTimeout: 100 });
    server.faults.when(() => true, { kind: 'hang', when: 'before' });
    expect(await runOne('a')).toMatchObject({ outcome: 'unavailable' });
  });
});
