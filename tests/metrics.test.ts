import { afterEach, describe, expect, it, vi } from 'vitest';
import { type BacklogRow, createMetrics, type MetricsOptions } from '../src/metrics.ts';

const STORES = ['file://', 's3://bucket'];

function metrics(options: Partial<MetricsOptions> = {}) {
  return createMetrics({ stores: STORES, defaultMetrics: false, ...options });
}

/** Samples by their name and labels, e.g. `up{job="x"}`. */
async function samples(from: { text(): Promise<string> }): Promise<Map<string, number>> {
  const lines = (await from.text()).split('\n').filter(line => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map(line => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ')))]),
  );
}

const row = (store: string, rest: Partial<BacklogRow> = {}): BacklogRow => ({
  store,
  due: 0,
  delayed: 0,
  retrying: 0,
  running: 0,
  dead: 0,
  oldest_due_seconds: null,
  ...rest,
});

afterEach(() => {
  vi.useRealTimers();
});

/** The table of the contract: name, type, and the labels of each series of the store `file://`. */
const states = ['due', 'delayed', 'retrying', 'running', 'dead'].map(v => `{store="file://",state="${v}"}`);
const outcomes = ['deleted', 'absent', 'kept', 'retry', 'blocked', 'dead'].map(
  v => `{store="file://",outcome="${v}"}`,
);
const pausedBy = ['breaker', 'operator', 'root', 'fuse'].map(v => `{store="file://",by="${v}"}`);
const store = ['{store="file://"}'];
const CONTRACT: [name: string, type: string, series: string[]][] = [
  ['afterdelete_backlog_rows', 'gauge', states],
  ['afterdelete_oldest_due_seconds', 'gauge', store],
  ['afterdelete_cleanups_total', 'counter', outcomes],
  ['afterdelete_objects_deleted_total', 'counter', store],
  ['afterdelete_bytes_freed_total', 'counter', store],
  ['afterdelete_cleanup_duration_seconds', 'histogram', store],
  ['afterdelete_lag_seconds', 'histogram', store],
  ['afterdelete_wakeups_total', 'counter', ['{cause="notify"}', '{cause="timer"}', '{cause="full"}']],
  ['afterdelete_store_paused', 'gauge', pausedBy],
  ['afterdelete_listening', 'gauge', ['']],
  ['afterdelete_unserved_rows', 'gauge', ['']],
];

describe('the first scrape', () => {
  it.each(CONTRACT)('has %s, a %s, with all series at 0', async (name, type, series) => {
    const subject = metrics();
    expect(await subject.text()).toContain(`# TYPE ${name} ${type}\n`);
    const found = await samples(subject);
    const suffix = type === 'histogram' ? '_count' : '';
    const ofFiles = [...found].filter(
      ([key]) => (key === name || key.startsWith(`${name}${suffix}{`)) && !key.includes('s3://bucket'),
    );
    expect(Object.fromEntries(ofFiles)).toEqual(
      Object.fromEntries(series.map(labels => [`${name}${suffix}${labels}`, 0])),
    );
  });

  it('has nothing but what the contract names', async () => {
    const names = [...(await metrics().text()).matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name);
    expect(names.toSorted()).toEqual(CONTRACT.map(([name]) => name).toSorted());
  });

  it('has those of the process unless they are switched off, in a registry of its own', async () => {
    const first = await createMetrics({ stores: STORES }).text();
    const second = await createMetrics({ stores: STORES }).text();
    for (const text of [first, second]) expect(text).toContain('# TYPE process_cpu_seconds_total counter');
  });

  it('says what it is', () => {
    expect(metrics().contentType).toBe('text/plain; version=0.0.4; charset=utf-8');
  });
});

describe('what the daemon tells', () => {
  it('counts cleanups, objects, bytes, durations and lags', async () => {
    const subject = metrics();
    subject.cleanupEnded('file://', 'deleted', {
      objects: 3,
      bytes: 1000,
      handlerSeconds: 0.004,
      lagSeconds: 7200,
    });
    subject.cleanupEnded('file://', 'retry', { objects: 1, bytes: null, handlerSeconds: 700 });
    subject.cleanupEnded('file://', 'kept', { objects: 0, bytes: null, lagSeconds: -0.1 });
    const found = await samples(subject);
    const value = (key: string) => found.get(key.replace('}', ',store="file://"}')) ?? found.get(key);
    expect(found.get('afterdelete_cleanups_total{store="file://",outcome="deleted"}')).toBe(1);
    expect(found.get('afterdelete_cleanups_total{store="file://",outcome="retry"}')).toBe(1);
    expect(found.get('afterdelete_objects_deleted_total{store="file://"}')).toBe(4);
    expect(found.get('afterdelete_bytes_freed_total{store="file://"}')).toBe(1000);
    expect(value('afterdelete_cleanup_duration_seconds_bucket{le="0.0025"}')).toBe(0);
    expect(value('afterdelete_cleanup_duration_seconds_bucket{le="0.005"}')).toBe(1);
    expect(value('afterdelete_cleanup_duration_seconds_bucket{le="600"}')).toBe(1);
    expect(found.get('afterdelete_cleanup_duration_seconds_count{store="file://"}')).toBe(2);
    expect(value('afterdelete_lag_seconds_bucket{le="0.005"}')).toBe(1);
    expect(value('afterdelete_lag_seconds_bucket{le="3600"}')).toBe(1);
    expect(value('afterdelete_lag_seconds_bucket{le="86400"}')).toBe(2);
    expect(found.get('afterdelete_lag_seconds_sum{store="file://"}')).toBe(7200);
  });

  it('counts what a yielded cleanup deleted, but not the cleanup', async () => {
    const subject = metrics();
    subject.cleanupEnded('file://', 'yielded', { objects: 5, bytes: 10, handlerSeconds: 1 });
    const text = await subject.text();
    expect(text).not.toContain('yielded');
    expect(text).toContain('afterdelete_objects_deleted_total{store="file://"} 5\n');
  });

  it('shows wake-ups, pauses and whether it listens', async () => {
    const subject = metrics();
    subject.wakeup('notify');
    subject.wakeup('notify');
    subject.paused('s3://bucket', 'breaker', true);
    subject.paused('s3://bucket', 'operator', true);
    subject.paused('s3://bucket', 'operator', false);
    subject.listening(true);
    const found = await samples(subject);
    expect(found.get('afterdelete_wakeups_total{cause="notify"}')).toBe(2);
    expect(found.get('afterdelete_store_paused{store="s3://bucket",by="breaker"}')).toBe(1);
    expect(found.get('afterdelete_store_paused{store="s3://bucket",by="operator"}')).toBe(0);
    expect(found.get('afterdelete_listening')).toBe(1);
    subject.listening(false);
    expect((await samples(subject)).get('afterdelete_listening')).toBe(0);
  });

  it('makes no series for a store that is not configured', async () => {
    const subject = metrics();
    const before = (await samples(subject)).size;
    subject.cleanupEnded('s3://other', 'dead', { objects: 0, bytes: null });
    subject.paused('s3://other', 'root', true);
    subject.setBacklog([row('s3://other', { due: 3 })]);
    expect(await subject.text()).not.toContain('s3://other');
    expect((await samples(subject)).size).toBe(before);
  });
});

describe('the backlog', () => {
  it('is shown by store and state', async () => {
    const subject = metrics();
    subject.setBacklog([
      row('file://', { due: 1, delayed: 2, retrying: 3, running: 4, dead: 5, oldest_due_seconds: 1.5 }),
    ]);
    subject.setUnserved(9);
    const found = await samples(subject);
    const values = states.map(labels => found.get(`afterdelete_backlog_rows${labels}`));
    expect(values).toEqual([1, 2, 3, 4, 5]);
    expect(found.get('afterdelete_oldest_due_seconds{store="file://"}')).toBe(1.5);
    expect(found.get('afterdelete_unserved_rows')).toBe(9);
  });

  it('falls to 0 for a store that has no row any more', async () => {
    const subject = metrics();
    subject.setBacklog([row('file://', { dead: 5, oldest_due_seconds: 60 })]);
    subject.setBacklog([]);
    const found = await samples(subject);
    expect(found.get('afterdelete_backlog_rows{store="file://",state="dead"}')).toBe(0);
    expect(found.get('afterdelete_oldest_due_seconds{store="file://"}')).toBe(0);
  });
});

describe('refresh', () => {
  const DATABASE_GAUGES = /^afterdelete_(backlog_rows|oldest_due_seconds|unserved_rows)[{ ]/m;

  it('comes before a scrape, once a second at most', async () => {
    let time = 0;
    let calls = 0;
    const subject = metrics({
      now: () => time,
      refresh: async () => subject.setUnserved(++calls),
    });
    const unserved = async () => (await samples(subject)).get('afterdelete_unserved_rows');
    expect(await unserved()).toBe(1);
    time = 999;
    expect(await unserved()).toBe(1);
    time = 1000;
    expect(await unserved()).toBe(2);
  });

  it('is shared by scrapes at the same time', async () => {
    const refresh = vi.fn(async () => {});
    const subject = metrics({ refresh });
    await Promise.all([subject.text(), subject.text(), subject.text()]);
    expect(refresh).toHaveBeenCalledTimes(1);
  });

  it.each([
    ['rejects', () => Promise.reject(new Error('no database'))],
    [
      'throws',
      () => {
        throw new Error('no database');
      },
    ],
  ])('takes the gauges of the database away when it %s, and no other', async (_, failing) => {
    let time = 0;
    let refresh: () => Promise<void> = async () => {
      subject.setBacklog([row('file://', { due: 3 })]);
      subject.setUnserved(1);
    };
    const errors: Error[] = [];
    const subject = metrics({
      now: () => time,
      refresh: () => refresh(),
      onError: error => errors.push(error),
    });
    const working = refresh;
    expect(await subject.text()).toMatch(DATABASE_GAUGES);
    time += 1000;
    refresh = failing;
    const text = await subject.text();
    expect(text).not.toMatch(DATABASE_GAUGES);
    expect(text).toContain('afterdelete_listening 0\n');
    expect(errors.map(error => error.message)).toEqual(['no database']);
    time += 1000;
    refresh = working;
    expect(await subject.text()).toContain('afterdelete_backlog_rows{store="file://",state="due"} 3\n');
  });

  it('is not waited for longer than its timeout, nor started a second time beside itself', async () => {
    vi.useFakeTimers();
    const answer = Promise.withResolvers<void>();
    const errors: Error[] = [];
    const refresh = vi.fn(async () => {
      await answer.promise;
      subject.setUnserved(4);
    });
    const subject = metrics({ refresh, refreshTimeout: 100, onError: error => errors.push(error) });
    for (const expected of [1, 2]) {
      const text = subject.text();
      await vi.advanceTimersByTimeAsync(100);
      expect(await text).not.toMatch(DATABASE_GAUGES);
      expect(errors).toHaveLength(expected);
    }
    answer.resolve();
    expect(await subject.text()).toContain('afterdelete_unserved_rows 4\n');
    expect(refresh).toHaveBeenCalledTimes(1);
    expect(errors[0]?.message).toContain('within 100 ms');
  });
});
