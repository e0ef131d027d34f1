/** The daemon's settings: a YAML file, environment variables over it, and every mistake in both told at once. */
import { ConfigError, closest, problem, show } from './config/problems.ts';
import { type RootConfig, type RootInput, readRoots } from './config/roots.ts';
import { type Fuse, type ListenAddress, ROOTS_ENV, SETTINGS } from './config/settings.ts';
import { type Env, type File, readFile, Source } from './config/source.ts';
import type { LogLevel } from './log.ts';

export { ConfigError } from './config/problems.ts';
export { type CredentialNames, credentialsOf, type RootConfig } from './config/roots.ts';
export type { Fuse, ListenAddress } from './config/settings.ts';

/** Settings of a command that may do without a database. All times are in milliseconds. */
export interface Settings {
  /** PostgreSQL, perhaps behind a transaction pooler; undefined when not set and not required. */
  readonly databaseUrl: string | undefined;
  /** Direct connection for LISTEN and migrations; `off`: poll only. Default: `databaseUrl`. */
  readonly listenUrl: string | 'off' | undefined;
  /** Where the daemon deletes; roots do not contain one another. */
  readonly roots: readonly RootConfig[];
  /** The stores of the roots, each once. */
  readonly stores: readonly string[];
  /** This machine's name in `file://HOST/…`. */
  readonly host: string | undefined;
  /** Where metrics and health are served. */
  readonly http: ListenAddress | 'off';
  /** Most storage calls in flight, per store, unless its roots say otherwise. */
  readonly concurrency: number;
  /** Most rows claimed and not yet settled, per store; never less than its concurrency. */
  readonly prefetch: number;
  /** Failed attempts after which a row is dead. */
  readonly maxAttempts: number;
  /** Backoff after the first failure, in ms; doubles up to `retryCap`, with full jitter. */
  readonly retryBase: number;
  /** Longest backoff, in ms. */
  readonly retryCap: number;
  /** How long a worker that went silent keeps its rows, in ms. */
  readonly lease: number;
  /**
   * After how long a storage call is ended, in ms: half the lease. A call that starts just before the worker stops
   * trusting its lease must have ended before others take its rows: storage timeout + margin < lease.
   */
  readonly storageTimeout: number;
  /** Longest sleep without a notification, in ms; at most 1,000 when `listenUrl` is `off`. */
  readonly poll: number;
  /** Most cleanups of one root within a window; more pause its store until a person resumes it. */
  readonly fuse: Fuse | 'off';
  /** Time for the rows in hand after SIGTERM, in ms. */
  readonly shutdownGrace: number;
  /** How long done rows are kept, in ms; 0: they are not written at all. */
  readonly history: number;
  readonly logLevel: LogLevel;
}

/** Settings with a database. */
export interface Config extends Settings {
  readonly databaseUrl: string;
  readonly listenUrl: string | 'off';
}

export interface LoadOptions {
  /** Usually `process.env`. A variable that is set to nothing counts as not set. */
  readonly env: Env;
  /** The YAML file; default: what AFTERDELETE_CONFIG names, or none. */
  readonly configPath?: string | undefined;
  /** Whether it is an error to have no DATABASE_URL (default: yes). */
  readonly requireDatabase?: boolean;
  /** Whether it is an error to have no roots (default: yes). */
  readonly requireRoots?: boolean;
  /** Schemes that roots may have (default: file and s3); a program with handlers of its own has more. */
  readonly schemes?: readonly string[];
}

/** The longest poll without notifications to rely on, in ms. */
const MAX_POLL_WITHOUT_LISTEN = 1000;

/**
 * Reads and checks all settings.
 *
 * AFTERDELETE_ROOTS replaces the file's list of roots, yet a root that stands in both keeps the file's settings for it:
 * to lose its `endpoint` would mean to delete on another server.
 * @throws ConfigError with one line for every problem.
 */
export function loadConfig(options: LoadOptions & { readonly requireDatabase?: true }): Config;
export function loadConfig(options: LoadOptions): Settings;
export function loadConfig(options: LoadOptions): Settings {
  const problems: string[] = [];
  const file = readFile(options.env, options.configPath, problems);
  const source = new Source(options.env, file ?? {}, problems);
  // What is required may stand in the file: one that cannot be read is problem enough.
  const required = (setting: boolean | undefined) => file !== undefined && setting !== false;
  checkNames(options.env, file ?? {}, problems);

  const databaseUrl = source.readOptional('databaseUrl');
  if (databaseUrl === undefined && !source.failed('databaseUrl') && required(options.requireDatabase)) {
    problems.push(
      problem('DATABASE_URL', 'a connection string like postgres://user@host/database', 'nothing'),
    );
  }
  const listenUrl = source.readOptional('listenUrl') ?? databaseUrl;
  const host = source.readOptional('host');
  const rootInputs = listRoots(options.env, file ?? {}, problems);
  const roots = readRoots(
    rootInputs ?? [],
    {
      schemes: options.schemes ?? ['file', 's3'],
      host: source.failed('host') ? null : host,
      env: options.env,
    },
    problems,
  );
  if (rootInputs?.length === 0 && required(options.requireRoots)) {
    problems.push(
      problem(ROOTS_ENV, 'at least one root, e.g. file:///data/trainings/ or s3://bucket/', 'none'),
    );
  }
  const lease = source.read('lease');
  const poll = source.read('poll');
  const settings: Settings = {
    databaseUrl,
    listenUrl,
    roots,
    stores: [...new Set(roots.map(root => root.store))],
    host,
    http: source.read('http'),
    concurrency: source.read('concurrency'),
    prefetch: source.read('prefetch'),
    maxAttempts: source.read('maxAttempts'),
    retryBase: source.read('retryBase'),
    retryCap: source.read('retryCap'),
    lease,
    storageTimeout: Math.floor(lease / 2),
    poll: listenUrl === 'off' ? Math.min(poll, MAX_POLL_WITHOUT_LISTEN) : poll,
    fuse: source.read('fuse'),
    shutdownGrace: source.read('shutdownGrace'),
    history: source.read('history'),
    logLevel: source.read('logLevel'),
  };
  source.checkOrder('retryBase', settings.retryBase, 'retryCap', settings.retryCap);
  source.checkOrder('concurrency', settings.concurrency, 'prefetch', settings.prefetch);
  if (!source.failed('prefetch')) checkRootConcurrency(rootInputs ?? [], settings, source, problems);
  if (problems.length > 0) throw new ConfigError(problems);
  return settings;
}

function checkNames(env: Env, file: File, problems: string[]): void {
  const keys = [...Object.keys(SETTINGS), 'roots'];
  for (const key of Object.keys(file).filter(key => !keys.includes(key))) {
    problems.push(
      problem(show(key), 'a key that is known', `an unknown one (did you mean ${closest(key, keys)}?)`),
    );
  }
  const variables = [...Object.values(SETTINGS).map(setting => setting.env), ROOTS_ENV, 'AFTERDELETE_CONFIG'];
  const allowed = new Set([...variables, ...credentialVariables(file)]);
  for (const name of Object.keys(env)) {
    if (!name.startsWith('AFTERDELETE_') || name.startsWith('AFTERDELETE_TEST_') || allowed.has(name))
      continue;
    if (isServiceLink(name, env)) continue;
    const hint = `an unknown one (did you mean ${closest(name, variables)}?)`;
    problems.push(problem(name, 'an environment variable that is known', hint));
  }
}

/**
 * Kubernetes tells a container of the services beside it (https://kubernetes.io/docs/concepts/services-networking/service/, "Environment
 * variables"): those of one that is called `afterdelete`, or begins so, look like settings.
 */
function isServiceLink(name: string, env: Env): boolean {
  return Object.keys(env)
    .filter(key => key.endsWith('_SERVICE_HOST'))
    .map(key => key.slice(0, -'_SERVICE_HOST'.length))
    .some(
      service =>
        name === `${service}_PORT` ||
        name.startsWith(`${service}_PORT_`) ||
        name.startsWith(`${service}_SERVICE_`),
    );
}

/** Variables that hold credentials of roots may be called anything, AFTERDELETE_… too. */
function credentialVariables(file: File): string[] {
  return fileRoots(file)
    .map(root => field(root, 'credentials'))
    .flatMap(names => (typeof names === 'object' && names !== null ? Object.values(names) : []))
    .filter(name => typeof name === 'string');
}

const fileRoots = (file: File): readonly unknown[] => (Array.isArray(file.roots) ? file.roots : []);

function field(value: unknown, key: string): unknown {
  return typeof value === 'object' && value !== null ? Reflect.get(value, key) : undefined;
}

/** The roots as written; undefined when there is something, but no list. */
function listRoots(env: Env, file: File, problems: string[]): RootInput[] | undefined {
  const fromEnv = (env[ROOTS_ENV] ?? '').split(/[\s,]+/).filter(uri => uri !== '');
  if (fromEnv.length > 0) {
    return fromEnv.map(uri => {
      const index = fileRoots(file).findIndex(root => field(root, 'uri') === uri);
      return index < 0
        ? { name: ROOTS_ENV, value: uri }
        : { name: `roots[${index}]`, value: fileRoots(file)[index] };
    });
  }
  const listed = file.roots ?? [];
  if (Array.isArray(listed)) return listed.map((value, i) => ({ name: `roots[${i}]`, value }));
  problems.push(problem('roots', 'a list of roots', show(listed)));
  return undefined;
}

/** A root's own concurrency is held against prefetch as well. */
function checkRootConcurrency(
  inputs: readonly RootInput[],
  { roots, prefetch }: Settings,
  source: Source,
  problems: string[],
): void {
  for (const { uri, concurrency } of roots) {
    if (concurrency === undefined || concurrency <= prefetch) continue;
    const name = inputs.find(({ value }) => field(value, 'uri') === uri)?.name ?? uri;
    problems.push(
      problem(`${name}.concurrency`, `at most ${source.describe('prefetch')}`, String(concurrency)),
    );
  }
}
