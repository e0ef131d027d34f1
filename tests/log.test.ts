import { describe, expect, it } from 'vitest';
import { createLogger, type LogLevel } from '../src/log.ts';

const URL_WITH_PASSWORD = 'postgres://me:hunter2@db:5432/x';

function capture(level: LogLevel = 'info') {
  const lines: string[] = [];
  const logger = createLogger(level, { write: line => void lines.push(line) });
  return { logger, lines, records: () => lines.map(line => JSON.parse(line) as Record<string, unknown>) };
}

describe('createLogger', () => {
  it('writes one JSON line an event, with the time in ISO 8601', () => {
    const { logger, lines, records } = capture();
    logger.info({ event: 'cleanup_done', id: '7', target: 'file:///data/a@b' }, 'done');
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatch(/^[^\n]*\n$/);
    const [record] = records();
    expect(record).toMatchObject({ event: 'cleanup_done', id: '7', target: 'file:///data/a@b', msg: 'done' });
    expect(new Date(String(record?.time)).toISOString()).toBe(record?.time);
  });

  it('leaves out what is below its level', () => {
    const { logger, lines } = capture('warn');
    logger.info('no');
    logger.warn('yes');
    expect(lines).toHaveLength(1);
  });

  it('serialises errors under err and error alike, with their causes', () => {
    const { logger, records } = capture();
    const error = new Error('outer', { cause: new Error('inner') });
    logger.error({ err: error }, 'one');
    logger.error({ error }, 'two');
    logger.error({ error: 'just text' }, 'three');
    const [one, two, three] = records();
    expect(one?.err).toMatchObject({ type: 'Error', message: 'outer: inner' });
    expect(two?.error).toMatchObject({ type: 'Error', message: 'outer: inner' });
    expect(three?.error).toBe('just text');
  });

  it('lets no password through, wherever it stands', () => {
    const { logger, lines, records } = capture('trace');
    logger.info(URL_WITH_PASSWORD);
    logger.info({ url: URL_WITH_PASSWORD }, 'field');
    logger.info({ deep: [{ url: URL_WITH_PASSWORD }] }, 'depth');
    logger.child({ url: URL_WITH_PASSWORD }).info('binding');
    logger.info('%s and %j', URL_WITH_PASSWORD, { url: URL_WITH_PASSWORD });
    logger.error(new Error(`cannot reach ${URL_WITH_PASSWORD}`));
    logger.error({ err: new Error('outer', { cause: new Error(URL_WITH_PASSWORD) }) });
    logger.error(Object.assign(new TypeError('Invalid URL'), { input: 'postgres://me:hunter2/x@db/x' }));
    logger.info({
      credentials: { secretAccessKey: 'hunter2' },
      sessionToken: 'hunter2',
      PGPASSWORD: 'hunter2',
    });
    logger.fatal({ databaseUrl: `postgres://db/x?user=me&password=hunter2` });
    expect(lines.join('')).not.toContain('hunter2');
    expect(records()).toHaveLength(10);
    expect(records()[1]?.url).toBe('postgres://me:***@db:5432/x');
  });
});
