import { Agent, request as httpRequest } from 'node:http';
import { afterEach, describe, expect, it } from 'vitest';
import { type HttpEndpoint, HttpListenError, type HttpOptions, startHttp } from '../src/http.ts';

const endpoints: HttpEndpoint[] = [];
afterEach(async () => {
  await Promise.all(endpoints.splice(0).map(endpoint => endpoint.close()));
});

async function start(options: Partial<HttpOptions> = {}) {
  const errors: Error[] = [];
  const endpoint = await startHttp({
    listen: { host: '127.0.0.1', port: 0 },
    metrics: { text: async () => 'a 1\n', contentType: 'text/plain; version=0.0.4; charset=utf-8' },
    ready: async () => ({ ok: true }),
    onError: error => errors.push(error),
    ...options,
  });
  endpoints.push(endpoint);
  const get = async (path: string, method = 'GET') => {
    const response = await fetch(`${endpoint.url}${path}`, { method });
    return { status: response.status, body: await response.text(), headers: response.headers };
  };
  return { ...endpoint, errors, get };
}

function fail(message: string): () => Promise<never> {
  return async () => {
    throw new Error(message);
  };
}

describe('startHttp', () => {
  it('serves metrics with their content type', async () => {
    const { get } = await start();
    const answer = await get('/metrics?x=1');
    expect(answer).toMatchObject({ status: 200, body: 'a 1\n' });
    expect(answer.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8');
  });

  it('is healthy while it lives, whether ready or not', async () => {
    const { get } = await start({ ready: async () => ({ ok: false, reason: 'starting' }) });
    expect(await get('/healthz')).toMatchObject({ status: 200, body: 'ok\n' });
  });

  it('is ready, or says why not', async () => {
    expect(await (await start()).get('/readyz')).toMatchObject({ status: 200, body: 'ok\n' });
    const { get, errors } = await start({
      ready: async () => ({ ok: false, reason: 'cannot reach postgres://me:hunter2@db/x' }),
    });
    expect(await get('/readyz')).toMatchObject({
      status: 503,
      body: 'not ready: cannot reach postgres://me:***@db/x\n',
    });
    expect(errors).toEqual([]);
  });

  it('is not ready when the check itself fails, and tells the cause to the log only', async () => {
    const { get, errors } = await start({ ready: fail('boom') });
    const answer = await get('/readyz');
    expect(answer.status).toBe(503);
    expect(answer.body).not.toContain('boom');
    expect(errors.map(error => error.message)).toEqual(['boom']);
  });

  it('answers 500 when the metrics fail, and tells the cause to the log only', async () => {
    const { get, errors } = await start({ metrics: { text: fail('boom'), contentType: 'text/plain' } });
    const answer = await get('/metrics');
    expect(answer.status).toBe(500);
    expect(answer.body).not.toContain('boom');
    expect(errors.map(error => error.message)).toEqual(['boom']);
  });

  it('answers HEAD as GET, without the body', async () => {
    const { get } = await start();
    const answer = await get('/metrics', 'HEAD');
    expect(answer).toMatchObject({ status: 200, body: '' });
    expect(answer.headers.get('content-length')).toBe('4');
  });

  it.each(['/', '/metrics/', '/constructor', '/__proto__'])('lists what there is for %s', async path => {
    const { get } = await start();
    const answer = await get(path);
    expect(answer.status).toBe(404);
    for (const known of ['/metrics', '/healthz', '/readyz']) expect(answer.body).toContain(known);
  });

  it('refuses other methods and says which are allowed', async () => {
    const { get } = await start();
    const answer = await get('/metrics', 'POST');
    expect(answer.status).toBe(405);
    expect(answer.headers.get('allow')).toBe('GET, HEAD');
  });

  it('writes an IPv6 address in brackets', async context => {
    const endpoint = await start({ listen: { host: '::1', port: 0 } }).catch(error => {
      if (String(error).includes('EADDRNOTAVAIL') || String(error).includes('EAFNOSUPPORT')) return undefined;
      throw error;
    });
    if (endpoint === undefined) return context.skip('this machine has no IPv6');
    expect(endpoint.url).toMatch(/^http:\/\/\[::1\]:\d+$/);
    expect((await endpoint.get('/healthz')).status).toBe(200);
  });

  it('names the setting, the address and what to do when the port is taken', async () => {
    const { url } = await start();
    const port = Number(new URL(url).port);
    const second = startHttp({
      listen: { host: '127.0.0.1', port },
      metrics: { text: async () => '', contentType: 'text/plain' },
      ready: async () => ({ ok: true }),
      onError: () => {},
    });
    await expect(second).rejects.toThrow(HttpListenError);
    await expect(second).rejects.toThrow(
      `AFTERDELETE_HTTP: cannot listen on 127.0.0.1:${port}: another process listens there. Choose another`,
    );
  });

  it('closes with a connection kept alive, and may be closed twice', async () => {
    const { url, close } = await start();
    const agent = new Agent({ keepAlive: true });
    const ended = Promise.withResolvers<void>();
    const closed = Promise.withResolvers<void>();
    httpRequest(`${url}/healthz`, { agent }, response => {
      response.socket.once('close', closed.resolve);
      response.on('end', ended.resolve).resume();
    })
      .on('error', ended.reject)
      .end();
    await ended.promise;
    await Promise.all([close(), close(), closed.promise]);
    await expect(fetch(`${url}/healthz`)).rejects.toThrow();
    agent.destroy();
  });

  it('lets an answer under way end before it closes, and then its connection too', async () => {
    const asked = Promise.withResolvers<void>();
    const told = Promise.withResolvers<string>();
    const { url, close } = await start({
      metrics: {
        text: () => {
          asked.resolve();
          return told.promise;
        },
        contentType: 'text/plain',
      },
    });
    const answer = fetch(`${url}/metrics`);
    await asked.promise;
    const closed = close();
    told.resolve('late 1\n');
    const response = await answer;
    expect(await response.text()).toBe('late 1\n');
    expect(response.headers.get('connection')).toBe('close');
    await closed;
  });
});
