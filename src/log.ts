/** The daemon's log: pino, one JSON line an event. */
import { type DestinationStream, type Logger, pino, stdSerializers, stdTimeFunctions } from 'pino';
import { redactLine } from './redact.ts';

export type { Logger };

/** From the most urgent to the most talkative; `silent` writes nothing. */
export const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** What stands in the field `event`. People filter and alert by these names. */
export type LogEvent =
  | 'cleanup_done'
  | 'cleanup_retry'
  | 'cleanup_blocked'
  | 'cleanup_dead'
  | 'store_paused'
  | 'store_resumed'
  | 'listen_lost'
  | 'listen_restored'
  | 'started'
  | 'stopping'
  | 'stopped';

/**
 * An Error has no enumerable fields of its own: unserialised it would be logged as `{}`. pg hangs its whole client on some:
 * four kilobytes of it that tell nobody anything.
 */
function serializeError(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const { client: _, ...fields } = stdSerializers.err(error);
  return fields;
}

/**
 * A logger that writes JSON lines to `destination` (default: standard output) with the time in ISO 8601, UTC.
 *
 * Credentials are taken out of the finished line, the one place that everything passes: messages, fields at any depth,
 * bindings of child loggers, and what a library hangs on its errors (that of `new URL()` carries the whole input).
 */
export function createLogger(level: LogLevel, destination?: DestinationStream): Logger {
  return pino(
    {
      level,
      timestamp: stdTimeFunctions.isoTime,
      serializers: { err: serializeError, error: serializeError },
      hooks: { streamWrite: redactLine },
    },
    destination,
  );
}
