import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { describe, expect, it, onTestFinished } from 'vitest';
import { startS3Server } from '../s3-server/server.ts';
import { runCommand } from '../support/command.ts';
import { startDaemon } from '../support/daemon.ts';
import { createDatabase } from '../support/database.ts';
import { createDisk } from '../support/disk.ts';

const OTHER = '11111111-2222-4333-8444-555555555555';

const check = (databaseUrl: string, roots: string, env: Record<string, string> = {}, ...args: string[]) =>
  runCommand(['check', ...args], { env: { DATABASE_URL: databaseUrl, AFTERDELETE_ROOTS: roots, ...env } });

describe('check', () => {
  it('finds all well, and marks nothing by itself', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    const { code, stdout, stderr } = await check(db.url, disk.root);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout.split('\n')).toEqual([
      expect.stringMatching(/^ok {4}database: PostgreSQL 1[5-8]\.\d+$/),
      'ok    schema: that of this version',
      'ok    notifications: LISTEN hears',
      `ok    root ${disk.root}: reachable, not served yet: the first daemon marks it`,
      'ok    watches: none is declared',
      'ok    daemons: none runs at the moment',
      'ok    rows: none is dead, paused or unserved',
      '',
    ]);
    expect(await db.sql('SELECT FROM afterdelete.file_root')).toEqual([]);
  });

  it('fails without a schema, and without a database still looks at the roots', async () => {
    const db = await createDatabase({ empty: true });
    const disk = createDisk();
    const empty = await check(db.url, disk.root, { AFTERDELETE_LISTEN_URL: 'off' });
    expect(empty.code).toBe(1);
    expect(empty.stdout).toContain(
      'FAIL  schema: the database has no afterdelete schema: run `afterdelete migrate` first',
    );
    expect(empty.stdout).toContain('ok    notifications: off, poll only');
    const away = await check(
      'postgres://app:hunter2@127.0.0.1:1/app',
      `${disk.root} ${disk.root.replace(/\/$/, '-no/')}`,
    );
    expect(away.code).toBe(1);
    expect(away.stdout).toMatch(/^FAIL {2}database: the database at 127\.0\.0\.1:1 cannot be reached/);
    expect(away.stdout).toContain(`ok    root ${disk.root}`);
    expect(away.stdout).toMatch(/FAIL {2}root .*-no\/: .*missing/);
    expect(away.stdout + away.stderr).not.toContain('hunter2');
  });

  it('fails where another database is listened to', async () => {
    const [db, other] = [await createDatabase(), await createDatabase()];
    const { code, stdout } = await check(db.url, 's3://bucket/', {
      AFTERDELETE_LISTEN_URL: other.url,
      AWS_ENDPOINT_URL_S3: 'http://127.0.0.1:1',
      AWS_ACCESS_KEY_ID: 'x',
      AWS_SECRET_ACCESS_KEY: 'hunter2',
    });
    expect(code).toBe(1);
    expect(stdout).toContain('FAIL  notifications: LISTEN hears nothing');
    expect(stdout).toMatch(/FAIL {2}root s3:\/\/bucket\/: .*127\.0\.0\.1:1/);
    expect(stdout).not.toContain('hunter2');
  });

  it('reaches a bucket with the credentials that the file names', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    const s3 = await startS3Server({ buckets: ['bucket'] });
    onTestFinished(() => s3.stop());
    const config = disk.at('config.yaml');
    writeFileSync(
      config,
      `roots:
  - uri: s3://bucket/results/
    endpoint: ${s3.endpoint}
    credentials: { accessKeyId: MY_KEY, secretAccessKey: MY_SECRET }
`,
    );
    const env = { DATABASE_URL: db.url, MY_KEY: s3.accessKeyId, MY_SECRET: s3.secretAccessKey };
    const good = await runCommand(['check', '--config', config], { env });
    expect(good).toMatchObject({ code: 0, stderr: '' });
    expect(good.stdout).toContain('ok    root s3://bucket/results/: reachable\n');
    expect(good.stdout).not.toContain('warn');
    s3.buckets.setVersioning('bucket', 'Enabled');
    const versioned = await runCommand(['check', '--config', config], { env });
    expect(versioned.code).toBe(0);
    expect(versioned.stdout).toContain(
      'warn  root s3://bucket/results/: its bucket has versioning enabled, and the root says `versions: keep`: deletes here free no space',
    );
    const bad = await runCommand(['check', '--config', config], {
      env: { ...env, MY_SECRET: 'wrong-secret' },
    });
    expect(bad.code).toBe(1);
    expect(bad.stdout).toContain('FAIL  root s3://bucket/results/: ');
    expect(bad.stdout).not.toContain('wrong-secret');
  });

  it('warns of dead, paused and unserved rows; fails for a store that nobody could serve', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    await db.sql('SELECT afterdelete.enqueue($1)', [`${disk.root}a`]);
    await db.sql("SELECT afterdelete.pause('file://')");
    await db.sql(`INSERT INTO afterdelete.dead_file_cleanup (id, target, attempt, last_error, created_at, died_at)
      VALUES (5, 's3://a/dead', 1, 'denied', now(), now())`);
    const warned = await check(db.url, disk.root);
    expect(warned.code).toBe(0);
    expect(warned.stdout).toContain(
      'warn  store file://: 1 row waiting, and no live daemon serves it: start one',
    );
    expect(warned.stdout).toContain('warn  store file://: paused');
    expect(warned.stdout).toContain('warn  store s3://a: 1 dead row');
    await db.sql("SELECT afterdelete.enqueue('s3://nobody/a')");
    const failed = await check(db.url, disk.root);
    expect(failed.code).toBe(1);
    expect(failed.stdout).toContain('FAIL  store s3://nobody: 1 row waiting, and neither a live daemon');
  });
});

describe('check, of watches', () => {
  it('names what each lacks and the statement that mends it, which does', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    await db.sql(`CREATE TABLE sound (id text PRIMARY KEY);
      CREATE TABLE slow (id int PRIMARY KEY, path text);
      CREATE TABLE split (id int, k int) PARTITION BY LIST (k);
      CREATE TABLE dropped (id int PRIMARY KEY);
      SELECT afterdelete.watch('sound', 'file:///data/sound/{id}/'), afterdelete.watch('slow', 'file://{+path}'),
        afterdelete.watch('slow', 'file:///data/{path}-{id}'), afterdelete.watch('split', 'file:///data/split/{id}'),
        afterdelete.watch('dropped', 'file:///data/dropped/{id}')`);
    await db.sql('CREATE TABLE split_1 PARTITION OF split FOR VALUES IN (1); DROP TABLE dropped');
    const { code, stdout } = await check(db.url, disk.root);
    expect(code).toBe(1);
    const lines = stdout.split('\n').filter(line => line.includes('watch'));
    expect(lines.map(line => line.replace(/unwatch\(\d+/, 'unwatch(OID'))).toEqual([
      "FAIL  watch public.dropped file:///data/dropped/{id}: the table is gone; the guard blocks all that it could have held. Remedy: SELECT afterdelete.unwatch(OID, 'file:///data/dropped/{id}')",
      'warn  watch public.slow file:///data/{path}-{id}: no index finds its rows: the guard reads the whole table for every batch. Remedy: CREATE INDEX CONCURRENTLY ON public.slow (((\'file:///data/\'::text || left(path, 4097) COLLATE "C" || \'-\'::text || id::text) COLLATE "C"))',
      'warn  watch public.slow file://{+path}: no index finds its rows: the guard reads the whole table for every batch. Remedy: CREATE INDEX CONCURRENTLY ON public.slow (path text_pattern_ops)',
      "FAIL  watch public.split file:///data/split/{id}: not captured, because there is no trigger: TRUNCATE of public.split_1. Remedy: SELECT afterdelete.watch('public.split', 'file:///data/split/{id}')",
      'warn  watch public.split file:///data/split/{id}: no index finds its rows: the guard reads the whole table for every batch. Remedy: CREATE INDEX ON public.split (id)',
    ]);
    for (const line of stdout.split('\n').filter(text => text.includes('Remedy: '))) {
      await db.sql(line.slice(line.indexOf('Remedy: ') + 'Remedy: '.length));
    }
    const mended = await check(db.url, disk.root);
    expect(mended.stdout).toContain('ok    watches: 4, all in order\n');
    expect(mended.code).toBe(0);
  });

  it('wants an index that begins with a column of the template: one on the condition alone leads to every row', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    await db.sql(`CREATE TABLE soft (path text, deleted_at timestamptz); CREATE INDEX ON soft (deleted_at);
      CREATE TABLE part (path text, deleted_at timestamptz); CREATE INDEX ON part (path text_pattern_ops) WHERE deleted_at IS NULL;
      CREATE TABLE deep (project text, run text); CREATE INDEX ON deep (run);
      SELECT afterdelete.watch(t, 'file:///' || t || '/{+path}', 'deleted_at IS NULL') FROM unnest(ARRAY['soft', 'part']::regclass[]) t;
      SELECT afterdelete.watch('deep', 'file:///deep/{project}/{run}/')`);
    const { stdout } = await check(db.url, disk.root);
    expect(stdout.match(/Remedy: .*/g)).toEqual([
      'Remedy: CREATE INDEX CONCURRENTLY ON public.deep (project, run)',
      'Remedy: CREATE INDEX CONCURRENTLY ON public.soft (path text_pattern_ops)',
    ]);
    await db.sql('CREATE INDEX ON deep (project, run); CREATE INDEX ON soft (path text_pattern_ops)');
    expect((await check(db.url, disk.root)).stdout).toContain('ok    watches: 3, all in order');
  });

  it('finds columns that are not as they were, triggers that are disabled, tables that became partitions', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    await db.sql(`CREATE TABLE renamed (id text PRIMARY KEY); CREATE TABLE disabled (id text PRIMARY KEY);
      CREATE TABLE joined (id text PRIMARY KEY); CREATE TABLE whole (id text PRIMARY KEY) PARTITION BY LIST (id);
      SELECT afterdelete.watch(t, 's3://b/' || t || '/{id}') FROM unnest(ARRAY['renamed', 'disabled', 'joined']::regclass[]) t;
      ALTER TABLE renamed RENAME id TO number;
      ALTER TABLE disabled DISABLE TRIGGER ALL;
      ALTER TABLE whole ATTACH PARTITION joined DEFAULT`);
    const { code, stdout } = await check(db.url, disk.root);
    expect(code).toBe(1);
    expect(stdout).toContain(
      'FAIL  watch public.disabled s3://b/disabled/{id}: not captured, because a trigger of public.disabled is disabled. Remedy: ALTER TABLE public.disabled ENABLE TRIGGER afterdelete_',
    );
    expect(stdout).toContain(
      'FAIL  watch public.joined s3://b/joined/{id}: the table became, or is no longer, a partition or an inheriting table since it was declared: some statements are not captured. Remedy: SELECT afterdelete.watch(',
    );
    expect(stdout).toContain(
      'FAIL  watch public.renamed s3://b/renamed/{id}: the column id is not there any more (renamed or dropped?)',
    );
    await db.sql(
      `SELECT afterdelete.watch('joined', 's3://b/joined/{id}'); INSERT INTO whole VALUES ('x'); DELETE FROM whole`,
    );
    expect(await db.sql('SELECT target FROM afterdelete.pending_file_cleanup')).toEqual([
      { target: 's3://b/joined/x' },
    ]);
    await db.sql(`CREATE FUNCTION g(text) RETURNS boolean LANGUAGE sql RETURN false;
      SELECT afterdelete.guard('in use', 'g(text)'); DROP FUNCTION g(text)`);
    expect((await check(db.url, disk.root)).stdout).toContain(
      "FAIL  guard in use: it cannot be asked, and blocks everything: the function public.g(text) is not there. Remedy: mend the function, or SELECT afterdelete.unguard('in use')",
    );
    // As after a restore of the schema without its rows.
    await db.sql('DELETE FROM afterdelete.watched');
    expect((await check(db.url, disk.root)).stdout).toContain(
      'FAIL  watch public.disabled: not captured: the trigger afterdelete_2_delete belongs to no watch. Remedy: declare the watches of public.disabled again',
    );
  });
});

describe('check --adopt', () => {
  it('records another disk as the right one, and a daemon goes on with it', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    const mark = disk.at('.afterdelete-root');
    const daemon = startDaemon({ databaseUrl: db.url, roots: [disk.root] });
    await daemon.waitFor('started');
    await daemon.stop();
    const first = readFileSync(mark, 'utf8').trim();
    writeFileSync(mark, `${OTHER}\n`);
    const failed = await check(db.url, disk.root);
    expect(failed.code).toBe(1);
    expect(failed.stdout).toContain(`--adopt ${disk.root}`);

    const adopted = await check(db.url, disk.root, {}, '--adopt', disk.root);
    expect(adopted).toMatchObject({ code: 0, stderr: '' });
    expect(adopted.stdout).toBe(
      `${disk.root} is recorded as what is there now\n  before: ${first}\n  now:    ${OTHER}\n`,
    );
    expect(await check(db.url, disk.root)).toMatchObject({
      code: 0,
      stdout: expect.stringContaining(`ok    root ${disk.root}: reachable, and the recorded disk (${OTHER})`),
    });
    expect(await check(db.url, disk.root, {}, '--adopt', disk.root)).toMatchObject({
      code: 0,
      stdout: `${disk.root} is the recorded disk already: ${OTHER}\n`,
    });

    const target = disk.write('a');
    const again = startDaemon({ databaseUrl: db.url, roots: [disk.root] });
    await db.sql('SELECT afterdelete.enqueue($1)', [target]);
    await again.waitFor('cleanup_done', line => line.target === target);
  });

  it('marks a disk that has no mark', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    await db.sql("INSERT INTO afterdelete.file_root VALUES ($1, $2, 'me')", [disk.root, OTHER]);
    const { code, stdout } = await check(db.url, disk.root, {}, '--adopt', disk.root);
    expect(code).toBe(0);
    const now = readFileSync(disk.at('.afterdelete-root'), 'utf8').trim();
    expect(stdout).toContain(`before: ${OTHER}\n  now:    ${now}\n`);
    expect(await db.sql('SELECT identity FROM afterdelete.file_root')).toEqual([{ identity: now }]);
  });

  it('takes only a configured root that carries a mark', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    const roots = `${disk.root} s3://bucket/`;
    const cases = [
      { root: 'file:///elsewhere/', says: 'expected a configured root' },
      { root: disk.root.slice(0, -1), says: `expected a configured root (${disk.root})` },
      { root: 's3://bucket/', says: 'needs no mark' },
    ];
    for (const { root, says } of cases) {
      const { code, stderr } = await check(db.url, roots, {}, '--adopt', root);
      expect(code).toBe(2);
      expect(stderr).toContain(says);
    }
    rmSync(disk.path, { recursive: true });
    const gone = await check(db.url, disk.root, {}, '--adopt', disk.root);
    expect(gone.code).toBe(1);
    expect(gone.stderr).toMatch(/^error: the root .* is missing/);
    expect(await db.sql('SELECT FROM afterdelete.file_root')).toEqual([]);
  });
});
