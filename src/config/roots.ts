/** The roots: what each may say, and that they get on with one another. */
import { z } from 'zod';
import { redactConnectionString } from '../redact.ts';
import { quoteTarget, rootProblem, storeOf } from '../target.ts';
import { closest, problem, show } from './problems.ts';
import { count, parsed } from './settings.ts';
import type { Env } from './source.ts';

/** Names of environment variables that hold credentials, never the credentials: a `Config` may be logged. */
export interface CredentialNames {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken: string | undefined;
}

/** An address prefix inside which the daemon deletes, and how. What is undefined is left to the AWS SDK. */
export interface RootConfig {
  /** Ends with a slash. */
  readonly uri: string;
  /** Scheme and authority of the root. Roots of one store have all settings but `uri` in common. */
  readonly store: string;
  /** Most storage calls in flight for the whole store; undefined: what `Config.concurrency` says. */
  readonly concurrency: number | undefined;
  /** Most rows or objects a second for the whole store; undefined: as many as can be. */
  readonly rate: number | undefined;
  /** Base URL of an S3 server other than AWS. */
  readonly endpoint: string | undefined;
  readonly region: string | undefined;
  /** True: the bucket stands in the path, not in the host name. */
  readonly forcePathStyle: boolean | undefined;
  readonly credentials: CredentialNames | undefined;
  /** What becomes of older versions in a versioned bucket. */
  readonly versions: 'keep' | 'purge';
  /** What becomes of uploads of what is deleted that were begun before its cleanup fell due, and never completed. */
  readonly uploads: 'keep' | 'abort';
  /** What becomes of what was written after the cleanup fell due. */
  readonly newer: 'keep' | 'delete';
  /** The checksum of the first DeleteObjects; `auto`: md5 where an endpoint is set, else crc32. */
  readonly checksum: 'auto' | 'crc32' | 'md5';
  /** Whether objects are deleted by DeleteObjects (`batch`), by DeleteObject (`single`), or by what works (`auto`). */
  readonly deleteMode: 'auto' | 'batch' | 'single';
}

/** One root as the user wrote it. */
export interface RootInput {
  /** The setting's name: `AFTERDELETE_ROOTS`, or `roots[0]` in the YAML file. */
  readonly name: string;
  readonly value: unknown;
}

/** What the roots are checked against. */
export interface RootRules {
  /** Schemes that the daemon has a handler for. */
  readonly schemes: readonly string[];
  /** This machine's name in `file://HOST/…`; null: not known, because the setting itself is wrong. */
  readonly host: string | undefined | null;
  readonly env: Env;
}

const text = (expected: string, pattern: RegExp) =>
  parsed(expected, value => (typeof value === 'string' && pattern.test(value) ? value : undefined));

const endpoint = parsed('an http:// or https:// URL without user and password', value => {
  if (typeof value !== 'string' || !URL.canParse(value)) return undefined;
  const url = new URL(value);
  return /^https?:$/.test(url.protocol) && url.username === '' && url.password === '' ? value : undefined;
});

const variable = z.string({ error: 'the name of an environment variable' });

const oneOf = <const T extends string>(...words: T[]) =>
  z.enum(words, { error: `one of ${words.join(', ')}` }).optional();

const ROOT = z.strictObject({
  uri: z.string({ error: 'an address, e.g. file:///data/trainings/ or s3://bucket/prefix/' }),
  endpoint: endpoint.optional(),
  region: text('a region, e.g. eu-central-1', /^[\w-]+$/).optional(),
  forcePathStyle: z.boolean({ error: 'true or false' }).optional(),
  credentials: z
    .strictObject(
      { accessKeyId: variable, secretAccessKey: variable, sessionToken: variable.optional() },
      { error: 'a mapping with accessKeyId and secretAccessKey' },
    )
    .optional(),
  concurrency: count(1, 10_000).optional(),
  rate: count(1, 1_000_000).optional(),
  versions: oneOf('keep', 'purge'),
  uploads: oneOf('keep', 'abort'),
  newer: oneOf('keep', 'delete'),
  checksum: oneOf('auto', 'crc32', 'md5'),
  deleteMode: oneOf('auto', 'batch', 'single'),
});

const KEYS = Object.keys(ROOT.shape);
const CREDENTIAL_KEYS = ['accessKeyId', 'secretAccessKey', 'sessionToken'] as const;
const S3_ONLY = [
  'endpoint',
  'region',
  'forcePathStyle',
  'credentials',
  'versions',
  'uploads',
  'newer',
  'checksum',
  'deleteMode',
] as const satisfies readonly (keyof RootConfig)[];
/** What all roots of a store share, because there is one client and one limit a store. */
const PER_STORE = [...S3_ONLY, 'concurrency', 'rate'] as const;

interface NamedRoot {
  readonly name: string;
  readonly root: RootConfig;
}

/** Roots for their inputs; what is wrong goes to `problems`, and the root at fault is left out. */
export function readRoots(
  inputs: readonly RootInput[],
  rules: RootRules,
  problems: string[],
): readonly RootConfig[] {
  const roots = inputs.flatMap(input => {
    const root = readRoot(input, rules, problems);
    return root === undefined ? [] : [{ name: input.name, root }];
  });
  for (const [i, later] of roots.entries()) {
    for (const earlier of roots.slice(0, i)) checkApart(earlier, later, problems);
    const first = roots.slice(0, i).find(other => other.root.store === later.root.store);
    if (first) checkAlike(first, later, problems);
  }
  return roots.map(({ root }) => root);
}

function readRoot(input: RootInput, rules: RootRules, problems: string[]): RootConfig | undefined {
  const { name } = input;
  const given = typeof input.value === 'string' ? { uri: input.value } : withoutNulls(input.value);
  const result = ROOT.safeParse(given, { error: () => 'an address, or a mapping with the key uri' });
  if (!result.success) {
    problems.push(...result.error.issues.flatMap(issue => describeIssue(name, given, issue)));
    return undefined;
  }
  const { uri, credentials } = result.data;
  // A root given as a bare address has no key `uri` that a message could name.
  const uriName = typeof input.value === 'string' ? name : `${name}.uri`;
  const before = problems.length;
  const wrong = uriProblem(uri, rules);
  if (wrong !== undefined) problems.push(problem(uriName, wrong, quoteTarget(uri)));
  else problems.push(...s3OnlyProblems(name, result.data));
  for (const key of CREDENTIAL_KEYS) {
    const variableName = credentials?.[key];
    if (variableName === undefined) continue;
    const missing = variableProblem(variableName, rules.env);
    if (missing) problems.push(`${name}.credentials.${key}: expected ${missing}`);
  }
  if (problems.length > before) return undefined;
  return {
    uri,
    store: storeOf(uri),
    concurrency: result.data.concurrency,
    rate: result.data.rate,
    endpoint: result.data.endpoint,
    region: result.data.region,
    forcePathStyle: result.data.forcePathStyle,
    credentials: credentials && { ...credentials, sessionToken: credentials.sessionToken },
    versions: result.data.versions ?? 'keep',
    uploads: result.data.uploads ?? 'abort',
    newer: result.data.newer ?? 'delete',
    checksum: result.data.checksum ?? 'auto',
    deleteMode: result.data.deleteMode ?? 'auto',
  };
}

/** A key without a value is as good as no key. */
function withoutNulls(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, field]) => field !== null)
      .map(([key, field]) => [key, withoutNulls(field)]),
  );
}

function describeIssue(name: string, given: unknown, issue: z.core.$ZodIssue): string[] {
  const path = [name, ...issue.path].join('.');
  if (issue.code === 'unrecognized_keys') {
    const known = issue.path.length === 0 ? KEYS : CREDENTIAL_KEYS;
    return issue.keys.map(key =>
      problem(
        `${path}.${key}`,
        `one of the keys ${known.join(', ')}`,
        `an unknown one (did you mean ${closest(key, known)}?)`,
      ),
    );
  }
  const value = issue.path.reduce<unknown>(
    (at, key) => (typeof at === 'object' && at !== null ? Reflect.get(at, key) : undefined),
    given,
  );
  return [problem(path, issue.message, showField(issue.path, value))];
}

function showField(path: readonly PropertyKey[], value: unknown): string {
  if (path[0] === 'credentials' && value !== undefined) return 'something else (not shown: it may be secret)';
  return path[0] === 'endpoint' && typeof value === 'string' ? redactConnectionString(value) : show(value);
}

/** What a person who wrote a path, or forgot the slash, seems to have meant; or that lists are split at spaces. */
function meant(uri: string): string {
  const whole = uri.endsWith('/') ? uri : `${uri}/`;
  const guess = whole.startsWith('/') ? `file://${whole}` : whole;
  if (rootProblem(guess) === undefined) return ` (did you mean ${guess}?)`;
  return uri.includes('://') ? '' : ' (one with a space or comma in it goes into the YAML file)';
}

/** What was expected of an address, or undefined when it is a root that this daemon can serve. */
function uriProblem(uri: string, { schemes, host }: RootRules): string | undefined {
  const wrong = rootProblem(uri);
  if (wrong !== undefined) {
    return `a root: ${wrong}${meant(uri)}`;
  }
  const scheme = uri.slice(0, uri.indexOf('://'));
  if (!schemes.includes(scheme)) return `a root of a scheme served here (${schemes.join(', ')})`;
  const machine = storeOf(uri).slice('file://'.length);
  if (scheme !== 'file' || machine === '' || host === null || host === machine) return undefined;
  return host === undefined
    ? `file:///…, because AFTERDELETE_HOST does not say that this machine is ${quoteTarget(machine)}`
    : `file:///… or file://${host}/…, because AFTERDELETE_HOST says that this machine is ${quoteTarget(host)}`;
}

function s3OnlyProblems(name: string, given: z.output<typeof ROOT>): string[] {
  if (given.uri.startsWith('s3://')) return [];
  return S3_ONLY.filter(key => given[key] !== undefined).map(key =>
    problem(`${name}.${key}`, 'it for roots in s3:// only', `it for ${quoteTarget(given.uri)}`),
  );
}

/** What was expected of a variable, and what there is instead. Whoever wrote the secret itself must not see it logged. */
function variableProblem(name: string, env: Env): string | undefined {
  if (env[name]) return undefined;
  const shown = /^[A-Z][A-Z0-9_]{0,63}$/.test(name)
    ? name
    : 'one that is not set (not shown: it may be secret)';
  if (shown !== name) return `the name of an environment variable, got ${shown}`;
  return `the name of an environment variable that is set, got ${name}, which is ${env[name] === '' ? 'empty' : 'not set'}`;
}

/** For files the machine's name is left aside: `file:///data/` and `file://gpu-01/data/` are one disk. */
function checkApart(earlier: NamedRoot, later: NamedRoot, problems: string[]): void {
  const [a, b] = [earlier.root, later.root];
  const bothFiles = a.uri.startsWith('file://') && b.uri.startsWith('file://');
  const path = (root: RootConfig) => (bothFiles ? root.uri.slice(root.store.length) : root.uri);
  if (a.uri === b.uri) {
    problems.push(problem(later.name, 'each root once', `${quoteTarget(b.uri)} again`));
  } else if (path(a) !== path(b) && (path(b).startsWith(path(a)) || path(a).startsWith(path(b)))) {
    const [inner, outer] = path(b).startsWith(path(a)) ? [b, a] : [a, b];
    problems.push(
      problem(
        later.name,
        'roots that do not contain one another',
        `${quoteTarget(inner.uri)} inside ${quoteTarget(outer.uri)}`,
      ),
    );
  }
}

function checkAlike(first: NamedRoot, later: NamedRoot, problems: string[]): void {
  const shown = (value: unknown) =>
    typeof value === 'object' ? JSON.stringify(value) : value === undefined ? 'nothing' : show(value);
  for (const key of PER_STORE) {
    const [a, b] = [shown(first.root[key]), shown(later.root[key])];
    if (a === b) continue;
    const as = first.name === later.name ? quoteTarget(first.root.uri) : first.name;
    problems.push(
      problem(`${later.name}.${key}`, `the same as for ${as}, which is of the same store: ${a}`, b),
    );
  }
}

/** The credentials that a root names; undefined: the AWS SDK finds its own. */
export function credentialsOf(
  root: RootConfig,
  env: Env,
): { accessKeyId: string; secretAccessKey: string; sessionToken?: string } | undefined {
  if (root.credentials === undefined) return undefined;
  const { accessKeyId, secretAccessKey, sessionToken } = root.credentials;
  const token = sessionToken === undefined ? undefined : env[sessionToken];
  return {
    accessKeyId: env[accessKeyId] ?? '',
    secretAccessKey: env[secretAccessKey] ?? '',
    ...(token === undefined ? {} : { sessionToken: token }),
  };
}
