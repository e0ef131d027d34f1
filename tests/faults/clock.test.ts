/**
 * A clock is wrong by an hour. Promised: that of a daemon's machine decides nothing, and one of the database that is set back
 * hides no row. The machine's real clock is left alone, as everything else here goes by it: daemons are made to see another.
 */
import { describe, expect, it, onTestFinished } from 'vitest';
import { startS3Server } from '../s3-server/server.ts';
import { createBurst } from '../support/burst.ts';
import { type Daemon, startDaemon } from '../support/daemon.ts';
import { createDatabase } from '../support/database.ts';
import { createDisk } from '../support/disk.ts';
import { countEvents, nextEvent, testReconciler, until } from '../support/reconciler.ts';

const HOUR = 3_600_000;
const PRELOAD = new URL('../support/wrong-clock.ts', import.meta.url);

const wrong = (error: number) => ({ NODE_OPTIONS: `--import=${PRELOAD.href}`, WRONG_CLOCK: `${error}` });

/** By how many hours the daemon's clock is wrong, as its last log line shows. */
function errorOf(daemon: Daemon): number {
  const { time } = daemon.lines.at(-1) as { time?: string };
  return Math.round((Date.parse(time ?? '') - Date.now()) / HOUR);
}

describe('the clock of a machine that is wrong by an hour', () => {
  it('makes nothing due, keeps nothing waiting and ends no lease, fast or slow, nor when it jumps', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    const start = (error: number) =>
      startDaemon({
        databaseUrl: db.url,
        roots: [disk.root],
        env: { ...wrong(error), AFTERDELETE_LEASE: '8s', AFTERDELETE_PREFETCH: '16' },
      });
    const [fast, slow] = [start(HOUR), start(-HOUR)];
    const write = async (name: string) => {
      const targets = Array.from({ length: 100 }, (_, i) => disk.write(`${name}/${i}`));
      await db.sql('INSERT INTO afterdelete.pending_file_cleanup (target) SELECT * FROM unnest($1::text[])', [
        targets,
      ]);
    };
    const done = async () =>
      (await db.sql<{ n: number }>('SELECT count(*)::int AS n FROM afterdelete.done_file_cleanup'))[0]?.n;
    /** Two heartbeats of each, from now on: time enough to take somebody for vanished. */
    const beats = async () => {
      for (let n = 0; n < 2; n++) {
        const [asOf] = await db.sql<{ at: string }>('SELECT clock_timestamp()::text AS at');
        await until(
          async () =>
            (await db.sql('SELECT FROM afterdelete.worker WHERE heartbeat_at > $1::timestamptz', [asOf?.at]))
              .length === 2,
          'their heartbeats',
        );
      }
    };
    await Promise.all([fast.waitFor('started'), slow.waitFor('started')]);
    expect([errorOf(fast), errorOf(slow)]).toEqual([1, -1]);
    const later = disk.write('later');
    await db.sql("SELECT afterdelete.enqueue($1, delay => '30 minutes')", [later]);
    await write('before');
    await until(async () => (await done()) === 100, 'the rows');
    await beats();

    fast.signal('SIGUSR2');
    slow.signal('SIGUSR2');
    await write('after');
    await until(async () => (await done()) === 200, 'the rows');
    await beats();
    const gone = [fast.waitFor('stopped'), slow.waitFor('stopped')];
    await Promise.all([fast.stop(), slow.stop(), ...gone]);
    expect([errorOf(fast), errorOf(slow)]).toEqual([-1, 1]);

    const odd = ['lease_lost', 'reaped', 'trouble', 'cleanup_fenced', 'cleanup_retry'];
    expect([...fast.lines, ...slow.lines].filter(({ event }) => odd.includes(event ?? ''))).toEqual([]);
    expect(await db.sql('SELECT target, attempt FROM afterdelete.pending_file_cleanup')).toEqual([
      { target: later, attempt: 0 },
    ]);
    expect(
      await db.sql(`SELECT count(*)::int AS rows, count(DISTINCT id)::int AS ids,
          bool_and(attempt = 1 AND outcome = 'deleted' AND done_at BETWEEN created_at AND now()) AS well
        FROM afterdelete.done_file_cleanup`),
    ).toEqual([{ rows: 200, ids: 200, well: true }]);
  });

  it('costs nothing where S3 refuses what is signed with it: its answer tells the right time', async () => {
    const db = await createDatabase();
    const s3 = await startS3Server({ buckets: ['bucket'] });
    onTestFinished(() => s3.stop());
    const daemon = startDaemon({
      databaseUrl: db.url,
      roots: ['s3://bucket/a/'],
      env: {
        ...wrong(HOUR),
        AWS_ENDPOINT_URL_S3: s3.endpoint,
        AWS_ACCESS_KEY_ID: s3.accessKeyId,
        AWS_SECRET_ACCESS_KEY: s3.secretAccessKey,
      },
    });
    for (const key of ['a/1', 'a/2', 'b/kept']) s3.buckets.put('bucket', key, 'x');
    await db.sql("SELECT afterdelete.enqueue('s3://bucket/a/1')");
    await daemon.count('cleanup_done', 1);
    daemon.signal('SIGUSR2');
    await db.sql("SELECT afterdelete.enqueue('s3://bucket/a/2')");
    await daemon.count('cleanup_done', 2);
    expect(s3.buckets.list('bucket', '')).toEqual(['b/kept']);
    expect(await db.sql('SELECT DISTINCT attempt FROM afterdelete.done_file_cleanup')).toEqual([
      { attempt: 1 },
    ]);
  });
});

describe('the clock of the database that is set back by an hour', () => {
  /** What a database writes whose clock has been set back. */
  const WRITE_EARLIER = `INSERT INTO afterdelete.pending_file_cleanup (target, run_at, created_at)
    SELECT target, clock_timestamp() - interval '1 hour', clock_timestamp() - interval '1 hour' FROM unnest($1::text[]) AS target`;

  it.each(['in the middle of a burst', 'while nothing is to be done'])('hides no row: %s', async when => {
    const db = await createDatabase();
    let setBack = false;
    const burst = createBurst({
      sql: (text, values) => db.sql(setBack && /^INSERT/.test(text) ? WRITE_EARLIER : text, values),
    });
    const reconciler = testReconciler({
      databaseUrl: db.url,
      handlers: [burst.handler],
      prefetch: 20,
      lease: 1_000,
      poll: 50,
    });
    const { outbox } = reconciler;
    const { mark, claim, heartbeat } = outbox;
    let floor: number | undefined;
    let beats = 0;
    outbox.claim = async (...args) => {
      floor = args[3]?.get('fake://store');
      return await claim.apply(outbox, args);
    };
    const earlier = (moment: number) => (setBack ? moment - 3_600_000_000 : moment);
    outbox.mark = async () => {
      const marked = await mark.apply(outbox);
      return { ...marked, moment: earlier(marked.moment) };
    };
    outbox.heartbeat = async (...args) => {
      const beat = await heartbeat.apply(outbox, args);
      beats += 1;
      return { ...beat, moment: earlier(beat.moment) };
    };
    await reconciler.start();
    await burst.write(50);
    await burst.expectDone();
    const [last] = await db.sql<{ due: number }>(
      'SELECT (1000000 * extract(epoch FROM max(created_at)))::float8 AS due FROM afterdelete.done_file_cleanup',
    );
    // From now on claims pass by what was due earlier, and the bounds rise no more.
    await until(() => beats > 0 && floor !== undefined && floor >= (last?.due ?? 0), 'the floor');
    if (when === 'in the middle of a burst') {
      const some = countEvents(reconciler, 'cleanup_done', 100);
      await burst.write(1_000);
      await some;
    }
    setBack = true;
    const done = nextEvent(reconciler, 'cleanup_done', ({ target }) => target.endsWith('/early'));
    await db.sql(WRITE_EARLIER, [['fake://store/early']]);
    await done;
  });
});
