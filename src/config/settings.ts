/**
 * Every setting but the roots, each alone: its environment variable, what it may be, and its default.
 *
 * The message of each schema says what was expected; who it was and what came instead, `loadConfig` adds.
 */
import ms, { type StringValue } from 'ms';
import pg from 'pg';
import { z } from 'zod';
import { LOG_LEVELS } from '../log.ts';

export interface Setting<T> {
  readonly env: string;
  readonly schema: z.ZodType<T>;
  /** As a user would write it. */
  readonly fallback: string | undefined;
}

/** Where something listens. */
export interface ListenAddress {
  /** A name or an address; IPv6 without its brackets. */
  readonly host: string;
  /** 0 lets the system choose. */
  readonly port: number;
}

/** Most cleanups of one root within a window. */
export interface Fuse {
  readonly cleanups: number;
  /** In ms. */
  readonly window: number;
}

/** A schema from a function that returns undefined for what it does not accept, or throws an error that says why. */
export function parsed<T>(expected: string, parse: (value: unknown) => T | undefined): z.ZodType<T> {
  return z.unknown().transform((value, context): T => {
    let why = '';
    try {
      const result = parse(value);
      if (result !== undefined) return result;
    } catch (error) {
      why = ` (${error instanceof Error ? error.message : String(error)})`;
    }
    context.addIssue({ code: 'custom', message: `${expected}${why}` });
    return z.NEVER;
  });
}

/** A whole number, or the digits of one: environment variables are text. */
export function count(min: number, max: number): z.ZodType<number> {
  const expected = `a whole number from ${min} to ${max}`;
  return parsed(expected, value => {
    const number = typeof value === 'string' && /^\d{1,15}$/.test(value) ? Number(value) : value;
    return typeof number === 'number' && Number.isInteger(number) && number >= min && number <= max
      ? number
      : undefined;
  });
}

const DURATION = /^\d+(\.\d+)?(ms|s|m|h|d|w)$/;

/** Milliseconds from `250ms` or `30d`; a bare number is taken only where YAML has one, as milliseconds. */
function milliseconds(value: unknown): number | undefined {
  if (typeof value === 'number') return value;
  if (value === '0') return 0;
  return typeof value === 'string' && DURATION.test(value) ? Math.round(ms(value as StringValue)) : undefined;
}

function millisecondsWithin(value: unknown, min: StringValue, max: StringValue): number | undefined {
  const result = milliseconds(value);
  return result !== undefined && Number.isInteger(result) && result >= ms(min) && result <= ms(max)
    ? result
    : undefined;
}

function duration(min: StringValue, max: StringValue): z.ZodType<number> {
  return parsed(`a duration with its unit (ms, s, m, h, d, w) from ${min} to ${max}`, value =>
    millisecondsWithin(value, min, max),
  );
}

/** `100000/1h` or `off`. */
function fuse(value: unknown): Fuse | 'off' | undefined {
  if (value === 'off') return 'off';
  const match = typeof value === 'string' ? /^(\d{1,10})\/(\S+)$/.exec(value) : null;
  const cleanups = Number(match?.[1]);
  const window = millisecondsWithin(match?.[2], '1s', '365d');
  return cleanups >= 1 && cleanups <= 1_000_000_000 && window !== undefined
    ? { cleanups, window }
    : undefined;
}

const FUSE =
  'off, or most cleanups of one root per window, like 100000/1h: a whole number from 1 to 1000000000, and a duration with its unit (ms, s, m, h, d, w) from 1s to 365d';

function oneOf<const T extends string>(values: readonly T[]): z.ZodType<T> {
  return z.enum(values, { error: `one of ${values.join(', ')}` }) as unknown as z.ZodType<T>;
}

/**
 * A connection string that pg can use, by pg's own rules: they are not quite those of URLs (with a socket in `?host=`
 * there may be a user and no host), and it reads the files of certificates that are named in it.
 * @throws what pg throws.
 */
function postgresUrl(value: unknown): string | undefined {
  if (typeof value !== 'string' || !/^postgres(ql)?:\/\//.test(value)) return undefined;
  const { port } = new pg.Client({ connectionString: value });
  // With another one, pg's connect() never comes back.
  if (!Number.isInteger(port) || port < 1 || port > 65_535)
    throw new Error(`no port from 1 to 65535: ${port}`);
  return value;
}

// Without an example of a password: it would be masked like a real one.
const POSTGRES_URL =
  "a connection string like postgres://user@host:5432/database, with special characters of a password percent-encoded ('/' as %2F, '#' as %23)";

/** `host:port`, `[address]:port` or `off`. */
function listenAddress(value: unknown): ListenAddress | 'off' | undefined {
  if (value === 'off') return 'off';
  if (typeof value !== 'string') return undefined;
  const match = /^(?:\[([0-9a-fA-F:.]+(?:%\w+)?)\]|([^\s:[\]/@]+)):(\d{1,5})$/.exec(value);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  return host !== undefined && port <= 65_535 ? { host, port } : undefined;
}

function setting<T>(env: string, schema: z.ZodType<T>, fallback?: string): Setting<T> {
  return { env, schema, fallback };
}

/**
 * Upper limits keep timers within what Node can wait (24 days, beyond which a timer fires at once), and points in
 * time within what PostgreSQL can store.
 */
export const SETTINGS = {
  databaseUrl: setting('DATABASE_URL', parsed(POSTGRES_URL, postgresUrl)),
  listenUrl: setting(
    'AFTERDELETE_LISTEN_URL',
    parsed(`off, or ${POSTGRES_URL}`, value => (value === 'off' ? value : postgresUrl(value))),
  ),
  host: setting(
    'AFTERDELETE_HOST',
    parsed("a machine's name as in file://HOST/…, without slashes and spaces", value =>
      typeof value === 'string' && /^[^\s/\p{Cc}]{1,255}$/u.test(value) ? value : undefined,
    ),
  ),
  http: setting(
    'AFTERDELETE_HTTP',
    parsed('host:port, like 127.0.0.1:9464 or [::1]:9464, or off', listenAddress),
    '127.0.0.1:9464',
  ),
  concurrency: setting('AFTERDELETE_CONCURRENCY', count(1, 10_000), '16'),
  prefetch: setting('AFTERDELETE_PREFETCH', count(1, 1_000_000), '4000'),
  maxAttempts: setting('AFTERDELETE_MAX_ATTEMPTS', count(1, 1_000_000), '20'),
  retryBase: setting('AFTERDELETE_RETRY_BASE', duration('1ms', '365d'), '1s'),
  retryCap: setting('AFTERDELETE_RETRY_CAP', duration('1ms', '365d'), '1h'),
  lease: setting('AFTERDELETE_LEASE', duration('2s', '1d'), '30s'),
  poll: setting('AFTERDELETE_POLL', duration('10ms', '5m'), '30s'),
  fuse: setting('AFTERDELETE_FUSE', parsed(FUSE, fuse), 'off'),
  shutdownGrace: setting('AFTERDELETE_SHUTDOWN_GRACE', duration('0ms', '1d'), '8s'),
  history: setting('AFTERDELETE_HISTORY', duration('0ms', '36500d'), '30d'),
  logLevel: setting('AFTERDELETE_LOG_LEVEL', oneOf(LOG_LEVELS), 'info'),
} as const;

export type SettingKey = keyof typeof SETTINGS;

/** The environment variable of the roots, which are a module of their own. */
export const ROOTS_ENV = 'AFTERDELETE_ROOTS';
