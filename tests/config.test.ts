import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ConfigError, credentialsOf, type LoadOptions, loadConfig, type Settings } from '../src/config.ts';
import { redact } from '../src/redact.ts';

const MINIMAL = { DATABASE_URL: 'postgres://me@db/x', AFTERDELETE_ROOTS: 'file:///data/' };

let directory: string;
let files = 0;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'afterdelete-config-'));
});
afterAll(() => {
  rmSync(directory, { recursive: true });
});

function yaml(text: string): string {
  const path = join(directory, `${files++}.yaml`);
  writeFileSync(path, text);
  return path;
}

/** Loads what is needed at least, with `env` over it and the YAML text, if any. */
function load(
  env: Record<string, string> = {},
  text?: string,
  options: Omit<LoadOptions, 'env' | 'configPath'> = {},
): Settings {
  return loadConfig({
    env: { ...MINIMAL, ...env },
    configPath: text === undefined ? undefined : yaml(text),
    ...options,
  });
}

function problemsOf(work: () => unknown): readonly string[] {
  try {
    work();
  } catch (error) {
    if (error instanceof ConfigError) {
      expect(error.message).toBe(error.problems.join('\n'));
      return error.problems;
    }
    throw error;
  }
  return [];
}

const problems = (env: Record<string, string>, text?: string) => problemsOf(() => load(env, text));
/** Roots in YAML only. */
const rootProblems = (roots: string, env: Record<string, string> = {}) =>
  problems({ AFTERDELETE_ROOTS: '', ...env }, `roots:\n${roots}`);

describe('the defaults', () => {
  it('are those of the contract', () => {
    expect(load()).toEqual({
      databaseUrl: 'postgres://me@db/x',
      listenUrl: 'postgres://me@db/x',
      roots: [
        {
          uri: 'file:///data/',
          store: 'file://',
          concurrency: undefined,
          endpoint: undefined,
          region: undefined,
          forcePathStyle: undefined,
          credentials: undefined,
          versions: 'keep',
          uploads: 'abort',
          newer: 'delete',
          checksum: 'auto',
          deleteMode: 'auto',
        },
      ],
      stores: ['file://'],
      host: undefined,
      http: { host: '127.0.0.1', port: 9464 },
      concurrency: 16,
      prefetch: 4000,
      maxAttempts: 20,
      retryBase: 1000,
      retryCap: 3_600_000,
      lease: 30_000,
      storageTimeout: 15_000,
      poll: 30_000,
      fuse: 'off',
      shutdownGrace: 8000,
      history: 30 * 86_400_000,
      logLevel: 'info',
    });
  });

  it('require a database and roots, unless told otherwise', () => {
    expect(problemsOf(() => loadConfig({ env: {} }))).toEqual([
      'DATABASE_URL: expected a connection string like postgres://user@host/database, got nothing',
      'AFTERDELETE_ROOTS: expected at least one root, e.g. file:///data/trainings/ or s3://bucket/, got none',
    ]);
    const settings = loadConfig({ env: {}, requireDatabase: false, requireRoots: false });
    expect(settings).toMatchObject({ databaseUrl: undefined, listenUrl: undefined, roots: [], stores: [] });
  });
});

describe('where settings come from', () => {
  const FILE = `
databaseUrl: postgres://file@db/x
listenUrl: off
host: gpu-01
http: off
concurrency: 4
prefetch: "50"
maxAttempts: 3
retryBase: 250ms
retryCap: 2000
lease: 10s
poll: 5s
fuse: 1/1s
shutdownGrace: 0
history: 0
logLevel: debug
roots:
  - file:///data/
  - uri: s3://bucket/a/
    endpoint: http://minio:9000
    region: eu-central-1
    forcePathStyle: true
    concurrency: 8
    versions: purge
    uploads: keep
    newer: keep
    checksum: crc32
    deleteMode: batch
    credentials: { accessKeyId: MINIO_KEY, secretAccessKey: AFTERDELETE_MINIO_SECRET }
`;
  const SECRETS = { MINIO_KEY: 'k', AFTERDELETE_MINIO_SECRET: 's' };

  it('may all stand in the YAML file', () => {
    const config = loadConfig({ env: SECRETS, configPath: yaml(FILE) });
    expect(config).toMatchObject({
      databaseUrl: 'postgres://file@db/x',
      listenUrl: 'off',
      host: 'gpu-01',
      http: 'off',
      concurrency: 4,
      prefetch: 50,
      maxAttempts: 3,
      retryBase: 250,
      retryCap: 2000,
      lease: 10_000,
      storageTimeout: 5000,
      fuse: { cleanups: 1, window: 1000 },
      shutdownGrace: 0,
      history: 0,
      logLevel: 'debug',
      stores: ['file://', 's3://bucket'],
    });
    expect(config.roots[1]).toEqual({
      uri: 's3://bucket/a/',
      store: 's3://bucket',
      concurrency: 8,
      endpoint: 'http://minio:9000',
      region: 'eu-central-1',
      forcePathStyle: true,
      credentials: {
        accessKeyId: 'MINIO_KEY',
        secretAccessKey: 'AFTERDELETE_MINIO_SECRET',
        sessionToken: undefined,
      },
      versions: 'purge',
      uploads: 'keep',
      newer: 'keep',
      checksum: 'crc32',
      deleteMode: 'batch',
    });
  });

  it('may all stand in the environment, which goes before the file', () => {
    const env = {
      DATABASE_URL: 'postgres://env@db/x',
      AFTERDELETE_LISTEN_URL: 'postgresql://direct@db/x',
      AFTERDELETE_HOST: 'gpu-02',
      AFTERDELETE_HTTP: '[::1]:0',
      AFTERDELETE_CONCURRENCY: '2',
      AFTERDELETE_PREFETCH: '20',
      AFTERDELETE_MAX_ATTEMPTS: '1',
      AFTERDELETE_RETRY_BASE: '1.5s',
      AFTERDELETE_RETRY_CAP: '30d',
      AFTERDELETE_LEASE: '2s',
      AFTERDELETE_POLL: '5m',
      AFTERDELETE_FUSE: '100000/1.5h',
      AFTERDELETE_SHUTDOWN_GRACE: '1m',
      AFTERDELETE_HISTORY: '1w',
      AFTERDELETE_LOG_LEVEL: 'silent',
      AFTERDELETE_ROOTS: 'file:///x/, file://gpu-02/y/\ts3://b/',
    };
    const expected = {
      databaseUrl: 'postgres://env@db/x',
      listenUrl: 'postgresql://direct@db/x',
      host: 'gpu-02',
      http: { host: '::1', port: 0 },
      concurrency: 2,
      prefetch: 20,
      maxAttempts: 1,
      retryBase: 1500,
      retryCap: 30 * 86_400_000,
      lease: 2000,
      poll: 300_000,
      fuse: { cleanups: 100_000, window: 5_400_000 },
      shutdownGrace: 60_000,
      history: 7 * 86_400_000,
      logLevel: 'silent',
      stores: ['file://', 'file://gpu-02', 's3://b'],
    };
    expect(loadConfig({ env })).toMatchObject(expected);
    expect(loadConfig({ env: { ...env, ...SECRETS, AFTERDELETE_CONFIG: yaml(FILE) } })).toMatchObject(
      expected,
    );
  });

  it('keep what the file says of a root that AFTERDELETE_ROOTS names too', () => {
    const env = { ...SECRETS, AFTERDELETE_ROOTS: 's3://bucket/a/' };
    const config = loadConfig({ env, configPath: yaml(FILE) });
    expect(config.roots).toMatchObject([{ uri: 's3://bucket/a/', endpoint: 'http://minio:9000' }]);
  });

  it('take a variable or key that is set to nothing for one that is not set', () => {
    expect(load({ AFTERDELETE_POLL: '', AFTERDELETE_CONFIG: '' }).poll).toBe(30_000);
    expect(load({}, 'poll:\nroots:\n').poll).toBe(30_000);
    expect(load({}, '# nothing\n').poll).toBe(30_000);
  });

  it('read --config rather than AFTERDELETE_CONFIG', () => {
    expect(load({ AFTERDELETE_CONFIG: '/nowhere' }, 'poll: 3s').poll).toBe(3000);
  });

  it('poll at most every second without LISTEN', () => {
    expect(load({ AFTERDELETE_LISTEN_URL: 'off' }).poll).toBe(1000);
    expect(load({ AFTERDELETE_LISTEN_URL: 'off', AFTERDELETE_POLL: '100ms' }).poll).toBe(100);
  });

  it.each(['off', ''])('have no fuse for %j, whatever the file says', value => {
    expect(load({ AFTERDELETE_FUSE: value }, value === '' ? '' : 'fuse: 10/1h').fuse).toBe('off');
  });

  it('find the credentials of a root where it says', () => {
    const env = { K: 'key', S: 'secret', T: 'token' };
    const roots = (token: string) =>
      `roots: [{ uri: s3://b/, credentials: { accessKeyId: K, secretAccessKey: S${token} } }]`;
    const credentials = (token: string) => {
      const [root] = load({ ...env, AFTERDELETE_ROOTS: '' }, roots(token)).roots;
      return root && credentialsOf(root, env);
    };
    expect(credentials('')).toEqual({ accessKeyId: 'key', secretAccessKey: 'secret' });
    expect(credentials(', sessionToken: T')).toEqual({
      accessKeyId: 'key',
      secretAccessKey: 'secret',
      sessionToken: 'token',
    });
    const [root] = load().roots;
    expect(root && credentialsOf(root, env)).toBeUndefined();
  });
});

describe('the file', () => {
  it('must be there', () => {
    const path = join(directory, 'missing.yaml');
    const wrong = problemsOf(() => loadConfig({ env: { AFTERDELETE_CONFIG: path, AFTERDELETE_LEASE: '1' } }));
    // What it would have said is not asked for; what else is wrong is told.
    expect(wrong).toHaveLength(2);
    expect(wrong[0]).toMatch(
      /^AFTERDELETE_CONFIG: expected a YAML file that can be read, got ".*missing\.yaml" \(ENOENT/,
    );
    expect(wrong[1]).toContain('AFTERDELETE_LEASE');
    expect(problemsOf(() => loadConfig({ env: {}, configPath: path }))[0]).toMatch(/^--config: /);
  });

  it('must be YAML, and no line of it is shown', () => {
    const wrong = problems({}, 'databaseUrl: postgres://me:hunter2@db/x\ndatabaseUrl: [hunter2\n');
    expect(wrong.length).toBeGreaterThan(0);
    for (const line of wrong) {
      expect(line).toMatch(/\.yaml:\d+:\d+: expected YAML, got /);
      expect(line).not.toContain('hunter2');
      expect(line).not.toContain('\n');
    }
  });

  it.each([
    ['an alias of nothing', 'poll: *nowhere\n'],
    [
      'aliases of aliases without end',
      [...'abcdefgh']
        .map((name, i) => `${name}: &${name} [${`*${'xabcdefg'[i]},`.repeat(i && 9)}1]`)
        .join('\n'),
    ],
  ])('must be YAML, and is not with %s', (_, text) => {
    const [wrong, ...others] = problems({}, text);
    expect(wrong).toMatch(/\.yaml: expected YAML, got .*alias/);
    expect(others).toEqual([]);
  });

  it('cannot be named by nothing', () => {
    const env = { ...MINIMAL, AFTERDELETE_CONFIG: '' };
    expect(problemsOf(() => loadConfig({ env, configPath: '' }))[0]).toMatch(
      /^--config: expected .*, got ""/,
    );
    expect(problemsOf(() => loadConfig({ env }))).toEqual([]);
  });

  it('must be a mapping', () => {
    expect(problems({}, '- a\n')[0]).toMatch(/expected a mapping of settings.*, got a list$/);
  });
});

describe('names', () => {
  it.each([
    ['AFTERDELETE_ROOT', 'AFTERDELETE_ROOTS'],
    ['AFTERDELETE_RETRYBASE', 'AFTERDELETE_RETRY_BASE'],
    ['AFTERDELETE_MAX_ATEMPTS', 'AFTERDELETE_MAX_ATTEMPTS'],
    ['AFTERDELETE_LOGLEVEL', 'AFTERDELETE_LOG_LEVEL'],
  ])('of the environment must be known: %s', (name, meant) => {
    expect(problems({ [name]: 'x' })).toEqual([
      `${name}: expected an environment variable that is known, got an unknown one (did you mean ${meant}?)`,
    ]);
  });

  it.each([
    ['retry_base', 'retryBase'],
    ['pol', 'poll'],
    ['AFTERDELETE_LEASE', 'lease'],
    ['root', 'roots'],
  ])('of the file must be known: %s', (key, meant) => {
    expect(problems({}, `${key}: 1`)).toEqual([
      `"${key}": expected a key that is known, got an unknown one (did you mean ${meant}?)`,
    ]);
  });

  it('that Kubernetes gives to services called like us are no settings; without such a service they are unknown', () => {
    const links = (service: string) => ({
      [`${service}_PORT`]: 'tcp://10.0.0.1:9464',
      [`${service}_PORT_9464_TCP_ADDR`]: '10.0.0.1',
      [`${service}_SERVICE_PORT_METRICS`]: '9464',
    });
    const all = { ...links('AFTERDELETE'), ...links('AFTERDELETE_STAGING') };
    const hosts = { AFTERDELETE_SERVICE_HOST: '10.0.0.1', AFTERDELETE_STAGING_SERVICE_HOST: '10.0.0.2' };
    expect(problems({ ...all, ...hosts })).toEqual([]);
    expect(problems(all)).toHaveLength(6);
    expect(problems({ ...hosts, AFTERDELETE_PROT: 'x' })).toHaveLength(1);
  });

  it('of tests and of others are no concern of ours', () => {
    expect(problems({ AFTERDELETE_TEST_DATABASE_URL: 'x', AWS_REGION: 'x', PATH: 'x' })).toEqual([]);
  });
});

describe('a setting alone', () => {
  it.each([
    ['AFTERDELETE_HTTP', '9464', 'host:port'],
    ['AFTERDELETE_HTTP', ':9464', 'host:port'],
    ['AFTERDELETE_HTTP', '127.0.0.1:70000', 'host:port'],
    ['AFTERDELETE_HTTP', '::1:9464', 'host:port'],
    ['AFTERDELETE_HTTP', 'http://127.0.0.1:9464', 'host:port'],
    ['AFTERDELETE_HOST', 'gpu 01', 'name'],
    ['AFTERDELETE_HOST', 'gpu/01', 'name'],
    ['AFTERDELETE_CONCURRENCY', '0', 'a whole number from 1 to 10000'],
    ['AFTERDELETE_CONCURRENCY', '1.5', 'a whole number'],
    ['AFTERDELETE_CONCURRENCY', 'many', 'a whole number'],
    ['AFTERDELETE_PREFETCH', '-1', 'a whole number'],
    ['AFTERDELETE_MAX_ATTEMPTS', '0x10', 'a whole number'],
    ['AFTERDELETE_POLL', '30', 'a duration with its unit'],
    ['AFTERDELETE_POLL', '6m', 'to 5m'],
    ['AFTERDELETE_POLL', '0', 'from 10ms'],
    ['AFTERDELETE_POLL', 'soon', 'a duration'],
    ['AFTERDELETE_POLL', '-1s', 'a duration'],
    ['AFTERDELETE_POLL', '1s ', 'a duration'],
    ['AFTERDELETE_LEASE', '1s', 'from 2s'],
    ['AFTERDELETE_RETRY_BASE', '0', 'from 1ms'],
    ['AFTERDELETE_SHUTDOWN_GRACE', '-8s', 'a duration'],
    ['AFTERDELETE_HISTORY', '999999d', 'to 36500d'],
    ['AFTERDELETE_FUSE', 'x', 'off, or most cleanups of one root per window, like 100000/1h'],
    ['AFTERDELETE_LOG_LEVEL', 'loud', 'one of fatal, error, warn, info, debug, trace, silent'],
  ])('%s=%j is refused', (name, value, expected) => {
    const wrong = problems({ [name]: value });
    expect(wrong).toHaveLength(1);
    expect(wrong[0]).toMatch(new RegExp(`^${name}: expected `));
    expect(wrong[0]).toContain(expected);
    expect(wrong[0]).toMatch(new RegExp(`, got ${JSON.stringify(value)}$`));
  });

  it.each([
    ...['100000', '1/0s', '0/1h', '-1/1h', '1.5/1h', 'x/1h', '/1h', '1/', '1/1', '1/h', '1/1h/1h', '1/ 1h'],
    ...['1 /1h', '1/-1h', '1/999ms', '1/366d', '1000000001/1h', '1e3/1h', 'OFF', '0'],
  ])('AFTERDELETE_FUSE=%j is refused', value => {
    expect(problems({ AFTERDELETE_FUSE: value })).toEqual([
      `AFTERDELETE_FUSE: expected off, or most cleanups of one root per window, like 100000/1h: a whole number from 1 to 1000000000, and a duration with its unit (ms, s, m, h, d, w) from 1s to 365d, got ${JSON.stringify(value)}`,
    ]);
  });

  it.each([
    ['concurrency: 2.5', 'concurrency', '2.5'],
    ['concurrency: [1]', 'concurrency', 'a list'],
    ['poll: { every: 1s }', 'poll', 'a mapping'],
    ['poll: "500"', 'poll', '"500"'],
    ['lease: 1999', 'lease', '1999'],
    ['lease: .inf', 'lease', 'Infinity'],
    ['host: 7', 'host', '7'],
    ['http: 9464', 'http', '9464'],
    ['http: false', 'http', 'false'],
    ['fuse: 100000', 'fuse', '100000'],
    ['fuse: false', 'fuse', 'false'],
    ['fuse: { cleanups: 10, window: 1h }', 'fuse', 'a mapping'],
    ['logLevel: 30', 'logLevel', '30'],
    ['listenUrl: false', 'listenUrl', 'false'],
  ])('is named as in the file: %s', (text, name, got) => {
    const wrong = problems({}, text);
    expect(wrong).toHaveLength(1);
    expect(wrong[0]).toMatch(new RegExp(`^${name}: expected `));
    expect(wrong[0]?.endsWith(`, got ${got}`)).toBe(true);
  });

  it.each([
    'mysql://me:hunter2@db/x',
    'postgres://me:hunter2/x@db/x',
    'postgres://me:hunter2#x@db/x',
    'me:hunter2@db/x',
    'hunter2',
    'postgres://me@db:x/y?password=hunter2',
  ])('a wrong connection string is shown without its password: %s', url => {
    const wrong = problems({ DATABASE_URL: url, AFTERDELETE_LISTEN_URL: url });
    expect(wrong.map(line => line.split(':')[0])).toEqual(['DATABASE_URL', 'AFTERDELETE_LISTEN_URL']);
    expect(wrong.join('\n')).not.toContain('hunter2');
    expect(wrong[0]).toContain('expected a connection string like postgres://');
    expect(problems({ DATABASE_URL: '' }, `databaseUrl: "${url}"`).join()).not.toContain('hunter2');
  });

  it.each([
    'postgres:///x?host=/run/postgresql',
    'postgres://me:hunter2@/x?host=/run/postgresql&port=6432',
    'postgres://me:hunter2@%2Frun%2Fpostgresql/x',
    'postgres://me:p%40ss%2Fw%23rd@db/x?sslmode=disable',
    'postgresql://db',
  ])('a connection string may be all that pg takes: %s', url => {
    expect(load({ DATABASE_URL: url }).databaseUrl).toBe(url);
  });

  it.each([
    // pg would never come back from connect().
    ['postgres://me:hunter2@db/x?port=abc', 'no port from 1 to 65535: NaN'],
    ['postgres://me:hunter2@db/x?port=99999', 'no port from 1 to 65535: 99999'],
    [
      'postgres://me:hunter2@db/x?sslrootcert=/nowhere/ca.pem',
      "no such file or directory, open '/nowhere/ca.pem'",
    ],
  ])('a connection string that pg cannot use is told of with the reason: %s', (url, why) => {
    for (const name of ['DATABASE_URL', 'AFTERDELETE_LISTEN_URL']) {
      const wrong = problems({ [name]: url });
      expect(wrong).toHaveLength(1);
      expect(wrong[0]).toMatch(
        new RegExp(`^${name}: expected .*${why}.*, got "postgres://me:\\*\\*\\*@db/x"$`),
      );
    }
  });

  it('no example in a message looks like a password, which would be masked', () => {
    const wrong = problems({ DATABASE_URL: 'x', AFTERDELETE_LISTEN_URL: 'x' }).join('\n');
    expect(redact(wrong)).toBe(wrong);
  });

  it('tells every problem, one line each', () => {
    const wrong = problems(
      { AFTERDELETE_LEASE: '1s', AFTERDELETE_NO: 'x', AFTERDELETE_HTTP: '\u001b[2J\n' },
      'poll: 10m\nno: 1\n',
    );
    expect(wrong.map(line => line.split(':')[0]).toSorted()).toEqual([
      '"no"',
      'AFTERDELETE_HTTP',
      'AFTERDELETE_LEASE',
      'AFTERDELETE_NO',
      'poll',
    ]);
    expect(wrong.join('')).not.toMatch(/\p{Cc}/u);
  });
});

describe('settings held against each other', () => {
  it('retryBase is at most retryCap', () => {
    expect(problems({ AFTERDELETE_RETRY_BASE: '2h' })).toEqual([
      'AFTERDELETE_RETRY_BASE: expected at most AFTERDELETE_RETRY_CAP, which is 1h by default, got "2h"',
    ]);
    expect(problems({ AFTERDELETE_RETRY_BASE: '2m' }, 'retryCap: 1m')).toEqual([
      'retryCap: expected at least AFTERDELETE_RETRY_BASE, which is 2m, got "1m"',
    ]);
    expect(problems({ AFTERDELETE_RETRY_BASE: '1h' })).toEqual([]);
  });

  it('concurrency is at most prefetch, that of a root too', () => {
    expect(problems({ AFTERDELETE_CONCURRENCY: '5000' })).toEqual([
      'AFTERDELETE_CONCURRENCY: expected at most AFTERDELETE_PREFETCH, which is 4000 by default, got "5000"',
    ]);
    expect(problems({ AFTERDELETE_PREFETCH: '8' })).toEqual([
      'AFTERDELETE_PREFETCH: expected at least AFTERDELETE_CONCURRENCY, which is 16 by default, got "8"',
    ]);
    expect(rootProblems('  - { uri: s3://b/, concurrency: 20 }', { AFTERDELETE_PREFETCH: '16' })).toEqual([
      'roots[0].concurrency: expected at most AFTERDELETE_PREFETCH, which is 16, got 20',
    ]);
  });

  it('says nothing of a pair of which one is wrong already', () => {
    expect(problems({ AFTERDELETE_RETRY_BASE: '2h', AFTERDELETE_RETRY_CAP: 'x' })).toHaveLength(1);
  });
});

describe('a root alone', () => {
  it.each([
    ['file:///data', 'a root ends with a slash'],
    ['file:///', "names something below '/'"],
    ['file:///a/../b/', "'.' or '..'"],
    ['/data/', 'a target starts with a scheme'],
    ['s3:///a/', 'bucket'],
    ['gs://bucket/', 'a scheme served here (file, s3)'],
    ['file://gpu-01/data/', 'AFTERDELETE_HOST does not say that this machine is "gpu-01"'],
  ])('%s is refused', (uri, expected) => {
    const [fromEnv, ...more] = problems({ AFTERDELETE_ROOTS: uri });
    expect(more).toEqual([]);
    expect(fromEnv).toMatch(/^AFTERDELETE_ROOTS: expected /);
    expect(fromEnv).toContain(expected);
    expect(fromEnv?.endsWith(`got "${uri}"`)).toBe(true);
    expect(rootProblems(`  - file:///ok/\n  - ${uri}`)[0]).toMatch(/^roots\[1\]: expected /);
    expect(rootProblems(`  - uri: ${uri}`)[0]).toMatch(/^roots\[0\]\.uri: expected /);
  });

  it('of this machine bears its name', () => {
    expect(problems({ AFTERDELETE_HOST: 'gpu-01', AFTERDELETE_ROOTS: 'file://gpu-01/data/' })).toEqual([]);
    expect(problems({ AFTERDELETE_HOST: 'gpu-02', AFTERDELETE_ROOTS: 'file://gpu-01/data/' })).toEqual([
      'AFTERDELETE_ROOTS: expected file:///… or file://gpu-02/…, because AFTERDELETE_HOST says that this machine is "gpu-02", got "file://gpu-01/data/"',
    ]);
    // A host that is wrong already is told of once.
    expect(problems({ AFTERDELETE_HOST: 'a b', AFTERDELETE_ROOTS: 'file://gpu-01/data/' })).toHaveLength(1);
  });

  it('may have a scheme that the program has a handler for', () => {
    const { stores } = load({ AFTERDELETE_ROOTS: 'gs://bucket/' }, undefined, { schemes: ['gs'] });
    expect(stores).toEqual(['gs://bucket']);
  });

  it('may have spaces and commas in the file', () => {
    expect(rootProblems('  - "file:///my data, all of it/"')).toEqual([]);
    expect(problems({ AFTERDELETE_ROOTS: 'file:///my/ data/' })[0]).toContain('goes into the YAML file');
  });

  it.each([
    ['7', 'roots[0]: expected an address, or a mapping with the key uri, got 7'],
    ['{ endpoint: "http://x" }', 'roots[0].uri: expected an address, e.g.'],
    ['{ uri: s3://b/, endpoint: minio:9000 }', 'roots[0].endpoint: expected an http:// or https:// URL'],
    ['{ uri: s3://b/, endpoint: "http://k:hunter2@x" }', 'got "http://k:***@x"'],
    ['{ uri: s3://b/, region: 1 }', 'roots[0].region: expected a region'],
    ['{ uri: s3://b/, forcePathStyle: "yes" }', 'roots[0].forcePathStyle: expected true or false, got "yes"'],
    [
      '{ uri: s3://b/, concurrency: 0 }',
      'roots[0].concurrency: expected a whole number from 1 to 10000, got 0',
    ],
    ['{ uri: s3://b/, versions: all }', 'roots[0].versions: expected one of keep, purge, got "all"'],
    ['{ uri: s3://b/, uploads: purge }', 'roots[0].uploads: expected one of keep, abort, got "purge"'],
    ['{ uri: s3://b/, newer: abort }', 'roots[0].newer: expected one of keep, delete, got "abort"'],
    ['{ uri: s3://b/, checksum: sha1 }', 'roots[0].checksum: expected one of auto, crc32, md5, got "sha1"'],
    [
      '{ uri: s3://b/, deleteMode: bulk }',
      'roots[0].deleteMode: expected one of auto, batch, single, got "bulk"',
    ],
    ['{ uri: s3://b/, end_point: x }', 'roots[0].end_point: expected one of the keys uri, '],
    ['{ uri: s3://b/, end_point: x }', '(did you mean endpoint?)'],
    ['{ uri: file:///d/, region: x }', 'roots[0].region: expected it for roots in s3:// only'],
    ['{ uri: s3://b/, credentials: env }', 'roots[0].credentials: expected a mapping with accessKeyId'],
    [
      '{ uri: s3://b/, credentials: { secretAccessKey: KEY } }',
      'roots[0].credentials.accessKeyId: expected the name',
    ],
    ['{ uri: s3://b/, credentials: { accesKey: KEY } }', '(did you mean accessKeyId?)'],
  ])('%s is refused', (root, expected) => {
    expect(rootProblems(`  - ${root}`, { KEY: 'k' }).join('\n')).toContain(expected);
  });

  it.each(['hunter2+/hunter2', 'hunter2'])(
    'shows no secret that was written in place of its name: %s',
    secret => {
      const wrong = rootProblems(
        `  - { uri: s3://b/, credentials: { accessKeyId: KEY, secretAccessKey: ${secret}, sessionToken: [${secret}] } }\n` +
          `  - { uri: s3://c/, credentials: { accessKeyId: KEY, secretAccessKey: ${secret} } }\n` +
          `  - { uri: s3://d/, credentials: ${secret} }\n`,
        { KEY: 'k' },
      );
      expect(wrong).toHaveLength(3);
      expect(wrong.join('\n')).not.toContain('hunter2');
    },
  );

  it('needs the variables that it names', () => {
    const root = '  - { uri: s3://b/, credentials: { accessKeyId: MISSING, secretAccessKey: EMPTY } }';
    expect(rootProblems(root, { EMPTY: '' })).toEqual([
      'roots[0].credentials.accessKeyId: expected the name of an environment variable that is set, got MISSING, which is not set',
      'roots[0].credentials.secretAccessKey: expected the name of an environment variable that is set, got EMPTY, which is empty',
    ]);
  });

  it('stands in a list', () => {
    expect(problems({ AFTERDELETE_ROOTS: '' }, 'roots: file:///data/')).toEqual([
      'roots: expected a list of roots, got "file:///data/"',
    ]);
  });
});

describe('roots held against each other', () => {
  it.each([
    'file:///data/a/ file:///data/b/',
    'file:///data/ file:///data2/',
    'file:///data/ file://gpu-01/data/',
    's3://b/a/ s3://b/b/',
    's3://b/ s3://b2/',
  ])('%s get on', roots => {
    expect(problems({ AFTERDELETE_HOST: 'gpu-01', AFTERDELETE_ROOTS: roots })).toEqual([]);
  });

  it.each([
    ['file:///data/ file:///data/a/', '"file:///data/a/" inside "file:///data/"'],
    ['file:///data/a/ file:///data/', '"file:///data/a/" inside "file:///data/"'],
    ['file:///data/ file://gpu-01/data/a/', '"file://gpu-01/data/a/" inside "file:///data/"'],
    ['s3://b/ s3://b/a/', '"s3://b/a/" inside "s3://b/"'],
  ])('%s contain one another', (roots, expected) => {
    expect(problems({ AFTERDELETE_HOST: 'gpu-01', AFTERDELETE_ROOTS: roots })).toEqual([
      `AFTERDELETE_ROOTS: expected roots that do not contain one another, got ${expected}`,
    ]);
  });

  it('stand once each', () => {
    expect(rootProblems('  - s3://b/\n  - s3://b/')).toEqual([
      'roots[1]: expected each root once, got "s3://b/" again',
    ]);
  });

  it.each([
    ['endpoint: http://x', '"http://x"'],
    ['region: eu', '"eu"'],
    ['forcePathStyle: true', 'true'],
    ['deleteMode: single', '"single"'],
    ['concurrency: 3', '3'],
    [
      'credentials: { accessKeyId: KEY, secretAccessKey: KEY }',
      '{"accessKeyId":"KEY","secretAccessKey":"KEY"}',
    ],
  ])('of one bucket agree on %s', (setting, got) => {
    const key = setting.split(':')[0];
    const env = { KEY: 'k' };
    const [wrong, ...more] = rootProblems(`  - s3://b/a/\n  - { uri: s3://b/b/, ${setting} }`, env);
    expect(more).toEqual([]);
    expect(wrong).toMatch(
      new RegExp(
        `^roots\\[1\\]\\.${key}: expected the same as for roots\\[0\\], which is of the same store: `,
      ),
    );
    expect(wrong?.endsWith(`, got ${got}`)).toBe(true);
    const both = `  - { uri: s3://b/a/, ${setting} }\n  - { uri: s3://b/b/, ${setting} }\n  - s3://c/`;
    expect(rootProblems(both, env)).toEqual([]);
  });
});
