import { existsSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { describe, expect, it, onTestFinished } from 'vitest';
import { startS3Server } from '../s3-server/server.ts';
import { runCommand } from '../support/command.ts';
import { startDaemon } from '../support/daemon.ts';
import { createDatabase } from '../support/database.ts';
import { createDisk } from '../support/disk.ts';
import { freePort } from '../support/postgres.ts';
import { databaseUrl } from '../support/server.ts';

describe('run', () => {
  it('deletes what the outbox says, and ends with 0 on SIGTERM', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    const target = disk.write('a.bin');
    const daemon = startDaemon({ databaseUrl: db.url, roots: [disk.root] });
    expect(await daemon.waitFor('started')).toMatchObject({ stores: ['file://'], roots: [disk.root] });
    await db.sql('SELECT afterdelete.enqueue($1)', [target]);
    const done = await daemon.waitFor('cleanup_done');
    expect(done).toMatchObject({ target, outcome: 'deleted', attempt: 1, objects_deleted: 1, id: '1' });
    expect(Object.keys(done).sort()).toEqual(
      [
        'attempt',
        'bytes_freed',
        'event',
        'hostname',
        'id',
        'level',
        'ms',
        'msg',
        'objects_deleted',
        'outcome',
      ]
        .concat(['pid', 'target', 'time'])
        .sort(),
    );
    expect(existsSync(disk.at('a.bin'))).toBe(false);
    expect(await daemon.stop('SIGTERM')).toEqual({ code: 0, signal: null });
    expect(daemon.lines.map(line => line.event).slice(-2)).toEqual(['stopping', 'stopped']);
    expect(await db.sql('SELECT FROM afterdelete.worker')).toEqual([]);
    expect(daemon.stderr).toBe('');
  });

  it('says in its log that something was already gone', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    const daemon = startDaemon({ databaseUrl: db.url, roots: [disk.root] });
    await db.sql('SELECT afterdelete.enqueue($1)', [`${disk.root}never-was`]);
    expect(await daemon.waitFor('cleanup_done')).toMatchObject({
      outcome: 'absent',
      msg: 'was already gone',
    });
  });

  it('tells of retries, and of a store that does not answer, with the fields of the contract', async () => {
    const db = await createDatabase();
    const s3 = await startS3Server({ buckets: ['bucket'] });
    onTestFinished(() => s3.stop());
    const daemon = startDaemon({
      databaseUrl: db.url,
      roots: ['s3://bucket/results/'],
      env: {
        AWS_ENDPOINT_URL_S3: s3.endpoint,
        AWS_ACCESS_KEY_ID: s3.accessKeyId,
        AWS_SECRET_ACCESS_KEY: s3.secretAccessKey,
        AFTERDELETE_RETRY_BASE: '1ms',
        AFTERDELETE_RETRY_CAP: '10ms',
      },
    });
    s3.buckets.put('bucket', 'results/a', 'content');
    let failures = 1;
    s3.faults.perKey(() => (failures-- > 0 ? { code: 'OperationAborted' } : undefined));
    await db.sql("SELECT afterdelete.enqueue('s3://bucket/results/a')");
    const retry = await daemon.waitFor('cleanup_retry');
    expect(retry).toMatchObject({ id: '1', target: 's3://bucket/results/a', attempt: 1 });
    expect(retry.error).toEqual(expect.any(String));
    expect(Number.isNaN(Date.parse(String(retry.next_attempt_at)))).toBe(false);
    expect(await daemon.waitFor('cleanup_done')).toMatchObject({
      attempt: 2,
      objects_deleted: 1,
      bytes_freed: null,
    });

    await s3.stop();
    await db.sql("SELECT afterdelete.enqueue('s3://bucket/results/' || i) FROM generate_series(1, 10) i");
    expect(await daemon.waitFor('cleanup_blocked')).toMatchObject({ attempt: 0, error: expect.any(String) });
    expect(await daemon.waitFor('store_paused')).toMatchObject({ store: 's3://bucket', by: 'breaker' });
    await s3.start();
    await daemon.waitFor('store_resumed', line => line.by === 'breaker');
    await daemon.count('cleanup_done', 11);
    expect(JSON.stringify(daemon.lines)).not.toContain(s3.secretAccessKey);
  });

  it('tells of deaths and of pauses by people, with the fields of the contract', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    const target = disk.write('folder/file').replace(/\/file$/, '');
    const daemon = startDaemon({ databaseUrl: db.url, roots: [disk.root] });
    await db.sql('SELECT afterdelete.enqueue($1)', [target]);
    const dead = await daemon.waitFor('cleanup_dead');
    expect(dead).toMatchObject({ target, attempt: 1, error: expect.stringContaining('directory') });
    await db.sql("SELECT afterdelete.pause('file://', 'spring cleaning')");
    expect(await daemon.waitFor('store_paused')).toMatchObject({
      store: 'file://',
      by: 'operator',
      reason: 'spring cleaning',
    });
    await db.sql("SELECT afterdelete.resume('file://')");
    expect(await daemon.waitFor('store_resumed')).toMatchObject({ store: 'file://', by: 'operator' });
  });

  it('tells loudly of a fuse that has blown, until a person resumes the store', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    const targets = [1, 2, 3].map(i => disk.write(`${i}.bin`));
    await db.sql('SELECT afterdelete.enqueue(t) FROM unnest($1::text[]) t', [targets]);
    const env = { AFTERDELETE_FUSE: '2/1d' };
    const daemon = startDaemon({ databaseUrl: db.url, roots: [disk.root], env });
    const paused = await daemon.waitFor('store_paused');
    expect(paused).toMatchObject({
      level: 50,
      store: 'file://',
      by: 'fuse',
      reason: `more than 2 cleanups of ${disk.root} within 1 day. Cancel what should stay, then afterdelete.resume('file://'): a new window begins, and as many more go; to let more go at once, raise AFTERDELETE_FUSE first`,
    });
    await daemon.count('cleanup_done', 2);
    expect([1, 2, 3].map(i => existsSync(disk.at(`${i}.bin`)))).toEqual([false, false, true]);
    expect((await daemon.get('/metrics')).text).toContain(
      'afterdelete_store_paused{store="file://",by="fuse"} 1',
    );
    expect((await runCommand(['status'], { env: { DATABASE_URL: db.url } })).stdout).toContain(
      'file://  for all daemons by fuse, ',
    );
    await runCommand(['resume', 'file://'], { env: { DATABASE_URL: db.url } });
    await daemon.waitFor('store_resumed');
    await daemon.count('cleanup_done', 3);
    expect((await daemon.get('/metrics')).text).toContain(
      'afterdelete_store_paused{store="file://",by="fuse"} 0',
    );
  });

  it.each(['SIGTERM', 'SIGINT'] as const)(
    'ends with 0 on %s, and at once with 1 on a second signal',
    async signal => {
      const db = await createDatabase();
      const disk = createDisk();
      const daemon = startDaemon({ databaseUrl: db.url, roots: [disk.root] });
      await daemon.waitFor('started');
      // Its last words to the database have to wait for this lock: it hangs in `stopping`.
      const client = await db.connect();
      await client.query('BEGIN; LOCK TABLE afterdelete.worker IN ACCESS EXCLUSIVE MODE');
      daemon.signal(signal);
      await daemon.waitFor('stopping');
      expect(await daemon.stop(signal)).toEqual({ code: 1, signal: null });
      await client.query('ROLLBACK');
    },
  );

  it('waits for a database that is not up yet; healthy, but not ready', async () => {
    const port = await freePort();
    const daemon = startDaemon({
      databaseUrl: `postgres://app:hunter2@127.0.0.1:${port}/app`,
      roots: ['file:///tmp/nowhere/'],
    });
    const waiting = await daemon.waitFor('database_unreachable');
    expect(waiting.error).toContain(`127.0.0.1:${port}`);
    expect((await daemon.get('/healthz')).status).toBe(200);
    const ready = await daemon.get('/readyz');
    expect(ready.status).toBe(503);
    expect(ready.text).toContain(`127.0.0.1:${port}`);
    expect((await daemon.get('/metrics')).status).toBe(200);
    expect(await daemon.stop()).toEqual({ code: 0, signal: null });
    expect(daemon.lines.filter(line => line.event === 'database_unreachable')).toHaveLength(1);
    expect(JSON.stringify(daemon.lines)).not.toContain('hunter2');
  });

  it('begins when the database comes up', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    // A server that hangs up at once is what a proxy in front of a database that starts looks like.
    const proxy = createServer(socket => socket.destroy());
    const port = await new Promise<number>(resolve => {
      proxy.listen(0, '127.0.0.1', () => resolve((proxy.address() as { port: number }).port));
    });
    onTestFinished(() => void proxy.close());
    const url = new URL(db.url);
    const real = { host: url.hostname, port: Number(url.port) };
    url.port = String(port);
    const daemon = startDaemon({ databaseUrl: url.href, roots: [disk.root] });
    await daemon.waitFor('database_unreachable');
    proxy.removeAllListeners('connection');
    proxy.on('connection', socket => {
      const server = connect(real);
      socket.on('error', () => server.destroy()).pipe(server);
      server.on('error', () => socket.destroy()).pipe(socket);
    });
    await daemon.waitFor('started');
    await db.sql('SELECT afterdelete.enqueue($1)', [disk.write('a')]);
    await daemon.waitFor('cleanup_done');
    expect((await daemon.get('/readyz')).status).toBe(200);
    await daemon.stop();
  });

  it('gives up at once when the database does not exist, or lets it in no more', async () => {
    const db = await createDatabase();
    const daemon = startDaemon({ databaseUrl: databaseUrl(db.url, 'no_such'), roots: ['file:///tmp/x/'] });
    expect(await daemon.exit).toEqual({ code: 1, signal: null });
    expect(daemon.stderr).toMatch(/^error: the database at 127\.0\.0\.1:\d+ does not let us in: .*no_such/);
    expect(daemon.stderr.split('\n')).toHaveLength(2);
  });

  it('refuses a database without the schema, and names `afterdelete migrate`', async () => {
    const db = await createDatabase({ empty: true });
    const daemon = startDaemon({ databaseUrl: db.url, roots: ['file:///tmp/x/'] });
    expect(await daemon.exit).toEqual({ code: 1, signal: null });
    expect(daemon.stderr).toContain('run `afterdelete migrate` first');
    expect(await db.sql("SELECT FROM pg_namespace WHERE nspname = 'afterdelete'")).toEqual([]);
  });

  it('refuses a schema of another version', async () => {
    const db = await createDatabase();
    await db.sql("INSERT INTO afterdelete.migration (name, checksum) VALUES ('99_future', 'x')");
    const daemon = startDaemon({ databaseUrl: db.url, roots: ['file:///tmp/x/'] });
    expect(await daemon.exit).toEqual({ code: 1, signal: null });
    expect(daemon.stderr).toContain('99_future');
  });

  it('ends with 1 when its HTTP port is taken, and names the setting', async () => {
    const db = await createDatabase();
    const taken = createServer();
    onTestFinished(() => void taken.close());
    const port = await new Promise<number>(resolve => {
      taken.listen(0, '127.0.0.1', () => resolve((taken.address() as { port: number }).port));
    });
    const daemon = startDaemon({
      databaseUrl: db.url,
      roots: ['file:///tmp/x/'],
      env: { AFTERDELETE_HTTP: `127.0.0.1:${port}` },
    });
    expect(await daemon.exit).toEqual({ code: 1, signal: null });
    expect(daemon.stderr).toContain('AFTERDELETE_HTTP');
    expect(daemon.stderr).toContain(String(port));
  });

  it('serves metrics under the names of the contract', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    const daemon = startDaemon({ databaseUrl: db.url, roots: [disk.root] });
    await daemon.waitFor('listen_restored');
    await db.sql('SELECT afterdelete.enqueue($1)', [disk.write('a')]);
    await db.sql("SELECT afterdelete.enqueue('s3://nobody/serves/this')");
    await db.sql("SELECT afterdelete.enqueue('s3://nobody/serves/this/later', '1 hour')");
    await daemon.waitFor('cleanup_done');
    const { status, text } = await daemon.get('/metrics');
    expect(status).toBe(200);
    const value = (series: string) =>
      text
        .split('\n')
        .find(line => line.startsWith(`${series} `))
        ?.split(' ')[1];
    expect(value('afterdelete_cleanups_total{store="file://",outcome="deleted"}')).toBe('1');
    expect(value('afterdelete_objects_deleted_total{store="file://"}')).toBe('1');
    expect(value('afterdelete_cleanup_duration_seconds_count{store="file://"}')).toBe('1');
    expect(value('afterdelete_lag_seconds_count{store="file://"}')).toBe('1');
    expect(value('afterdelete_backlog_rows{store="file://",state="due"}')).toBe('0');
    expect(value('afterdelete_oldest_due_seconds{store="file://"}')).toBe('0');
    expect(value('afterdelete_store_paused{store="file://",by="operator"}')).toBe('0');
    expect(value('afterdelete_listening')).toBe('1');
    expect(value('afterdelete_unserved_rows')).toBe('2');
    expect(value('afterdelete_wakeups_total{cause="notify"}')).toBeDefined();
    expect(value('afterdelete_bytes_freed_total{store="file://"}')).toBeDefined();
    expect(text).not.toContain('nobody');
  });

  it('tells every mistake in its configuration, with 2', async () => {
    const outcome = await runCommand(['run'], {
      env: { AFTERDELETE_CONCURRENCY: 'many', AFTERDELETE_ROOTS: 'file:///tmp', AFTERDELETE_HTP: 'off' },
    });
    expect(outcome.code).toBe(2);
    expect(outcome.stdout).toBe('');
    const lines = outcome.stderr.trim().split('\n');
    expect(lines).toHaveLength(4);
    for (const name of ['DATABASE_URL', 'AFTERDELETE_CONCURRENCY', 'AFTERDELETE_ROOTS', 'AFTERDELETE_HTP']) {
      expect(lines.some(line => line.startsWith(`${name}: expected `))).toBe(true);
    }
  });

  it('never shows a password, whatever fails', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    const url = new URL(db.url);
    url.searchParams.set('application_name', 'x');
    const daemon = startDaemon({
      databaseUrl: url.href,
      roots: [disk.root],
      env: { AFTERDELETE_LOG_LEVEL: 'trace' },
    });
    await daemon.waitFor('started');
    await daemon.get('/metrics');
    await daemon.stop();
    expect(JSON.stringify(daemon.lines)).not.toContain(`:${url.password}@`);
  });
});
