/**
 * What writers pay for waking the daemon: `npm run bench:writers -- [seconds] [rounds] [daemons]`.
 *
 * Sixteen writers commit one cleanup after the other on a PostgreSQL whose flush takes 2 ms, and a daemon (or several) with a
 * handler that does nothing drains what they write: with the trigger that notifies only when a daemon sleeps (ours), with none,
 * and with one that always notifies. Idle CPU is printed: where there is none left, it is the machine that is measured.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { cpus } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { watchLive } from './contestants/prepare.ts';
import { endChild, inTurn, judge, startChild } from './contestants/race.ts';
import { machine, median, onStage } from './stage.ts';

const SECONDS = Number(process.argv[2] ?? 10);
const ROUNDS = Number(process.argv[3] ?? 5);
const DAEMONS = Number(process.argv[4] ?? 1);
const WARM_UP = 2;
const ROOT = 'noop://store/';
const WRITER = fileURLToPath(new URL('./contestants/writer.ts', import.meta.url));
/** Two processes, so that one event loop does not hold the writers back. */
const PROCESSES = 2;
const WRITERS = 16;
const TABLE = 'afterdelete.pending_file_cleanup';

const TRIGGERS = {
  'wake trigger': ['wake'],
  'no trigger': [],
  'always notifies': ['always'],
} as const satisfies Record<string, readonly string[]>;

interface Measured {
  readonly commits: number;
  readonly settled: number;
  /** Share of all CPUs. */
  readonly idle: number;
}

const cpuTimes = () =>
  cpus().reduce(
    ({ idle, all }, { times }) => ({
      idle: idle + times.idle,
      all: all + Object.values(times).reduce((sum, time) => sum + time, 0),
    }),
    { idle: 0, all: 0 },
  );

async function ask(writers: readonly ChildProcess[]): Promise<number> {
  const answers = await Promise.all(
    writers.map(async writer => {
      const answer = once(writer, 'message');
      writer.send('ask');
      return Number((await answer)[0]);
    }),
  );
  return answers.reduce((sum, committed) => sum + committed, 0);
}

await onStage(
  async ({ db, url }) => {
    await watchLive(db, `${ROOT}{id}`);
    await db.sql(`
      CREATE FUNCTION always() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_notify('afterdelete', ''); RETURN NULL; END $$;
      CREATE TRIGGER always AFTER INSERT ON ${TABLE} FOR EACH STATEMENT EXECUTE FUNCTION always()`);
    const daemons = Array.from({ length: DAEMONS }, () =>
      startChild({ contestant: 'afterdelete', settings: {}, url, work: 'noop', root: ROOT }),
    );
    const settled = async () => {
      const [row] = await db.sql<{ n: number }>(
        'SELECT count(*)::int AS n FROM afterdelete.done_file_cleanup',
      );
      return row?.n ?? 0;
    };

    const run = async ({ label }: { label: string }): Promise<Measured> => {
      const on: readonly string[] = TRIGGERS[label as keyof typeof TRIGGERS];
      for (const trigger of ['wake', 'always'])
        await db.sql(
          `ALTER TABLE ${TABLE} ${on.includes(trigger) ? 'ENABLE' : 'DISABLE'} TRIGGER ${trigger}`,
        );
      await db.sql('TRUNCATE afterdelete.done_file_cleanup');
      await db.sql(`VACUUM ANALYZE ${TABLE}`);
      await db.sql('CHECKPOINT');
      const writers = Array.from({ length: PROCESSES }, () =>
        fork(WRITER, [url, String(WRITERS / PROCESSES), ROOT]),
      );
      await sleep(500);
      // With no trigger, nobody else tells the daemon that there is something to do: from then on it stays awake.
      await db.sql("SELECT pg_notify('afterdelete', '')");
      await sleep(WARM_UP * 1_000);
      const settledBefore = await settled();
      const before = { at: performance.now(), committed: await ask(writers), cpu: cpuTimes() };
      await sleep(SECONDS * 1_000);
      const after = { at: performance.now(), committed: await ask(writers), cpu: cpuTimes() };
      const seconds = (after.at - before.at) / 1_000;
      const settledMeanwhile = (await settled()) - settledBefore;
      for (const writer of writers) {
        const closed = once(writer, 'close');
        writer.send('end');
        await closed;
      }
      return {
        commits: (after.committed - before.committed) / seconds,
        settled: settledMeanwhile / seconds,
        idle: (after.cpu.idle - before.cpu.idle) / (after.cpu.all - before.cpu.all),
      };
    };
    const tell = ({ commits, settled: done, idle }: Measured) =>
      `${Math.round(commits)} commits a second, ${Math.round(done)} settled, ${Math.round(100 * idle)}% of CPU idle`;

    try {
      const entries = Object.keys(TRIGGERS).map(label => ({ label, contestant: 'afterdelete' as const }));
      const results = await inTurn(ROUNDS, entries, run, tell);
      const of = (label: keyof typeof TRIGGERS, key: keyof Measured = 'commits') =>
        median((results.get(label) ?? []).map(measured => measured[key]));
      const rows = entries.map(({ label }) => [
        label,
        {
          'commits/s': Math.round(of(label as keyof typeof TRIGGERS)),
          'settled/s': Math.round(of(label as keyof typeof TRIGGERS, 'settled')),
          'idle CPU, %': Math.round(100 * of(label as keyof typeof TRIGGERS, 'idle')),
          runs: (results.get(label) ?? []).map(({ commits }) => Math.round(commits)).join(' '),
        },
      ]);
      console.table(Object.fromEntries(rows));
      judge('wake trigger ÷ no trigger', of('wake trigger') / of('no trigger'), 0.95, 'at least');
      judge('wake trigger ÷ always notifies', of('wake trigger') / of('always notifies'), 10, 'at least');
    } finally {
      for (const daemon of daemons) await endChild(daemon);
    }
  },
  { flags: ['-c', 'commit_delay=2000', '-c', 'commit_siblings=0'] },
);
console.log(`${WRITERS} writers, ${DAEMONS} daemons, ${SECONDS} s each; ${machine()}`);
