/** What a soak looks at once a second: memory, lag, and what is dead in the two tables through which every row goes. */
import { readFileSync } from 'node:fs';
import type { TestDatabase } from '../../tests/support/database.ts';
import type { Fleet } from '../../tests/support/fleet.ts';
import { median } from '../stage.ts';

/** A number that was looked at, e.g. `lag, s`. */
export type Sample = Readonly<Record<string, number>>;

/** Most samples that make a start, or an end. */
const EDGE = 10;

export class Samples {
  readonly #all: Sample[] = [];

  add(sample: Sample): void {
    this.#all.push(sample);
  }

  get last(): Sample | undefined {
    return this.#all.at(-1);
  }

  /** Medians of the first ones and of the last ones, the most, and what was found when all had ended. */
  table(after: Sample): Record<string, Record<string, number>> {
    const edge = Math.max(1, Math.min(EDGE, Math.floor(this.#all.length / 4)));
    const names = Object.keys(after);
    return Object.fromEntries(
      names.map(name => {
        const values = this.#all.map(sample => sample[name] ?? Number.NaN).filter(n => !Number.isNaN(n));
        const row = {
          start: median(values.slice(0, edge)),
          most: Math.max(...values),
          end: median(values.slice(-edge)),
          drained: after[name] ?? Number.NaN,
        };
        return [
          name,
          Object.fromEntries(Object.entries(row).map(([key, n]) => [key, Math.round(10 * n) / 10])),
        ];
      }),
    );
  }
}

/** Undefined when the database does not answer. */
export async function takeSample(
  db: Pick<TestDatabase, 'sql'>,
  fleet: Fleet,
  veteran: number | undefined,
): Promise<Sample | undefined> {
  const tables = ['pending', 'running'];
  try {
    const [lag] = await db.sql<{ waiting: number; lag: number }>(
      'SELECT coalesce(sum(pending + running), 0)::int AS waiting, coalesce(max(oldest_due_seconds), 0)::float8 AS lag FROM afterdelete.backlog',
    );
    const sizes = await db.sql<{ relname: string; dead: number; mb: number }>(
      `SELECT relname, n_dead_tup::int AS dead, pg_total_relation_size(relid) / 1048576.0::float8 AS mb
         FROM pg_stat_user_tables WHERE schemaname = 'afterdelete' AND relname = ANY ($1) ORDER BY relname`,
      [tables.map(state => `${state}_file_cleanup`)],
    );
    const of = (pid: number | undefined) => (pid === undefined ? Number.NaN : residentMegabytes(pid));
    const all = [...fleet.daemons].map(daemon => of(daemon.pid)).filter(mb => !Number.isNaN(mb));
    return {
      'RSS of the daemon that lives through all, MB': of(veteran),
      'RSS of the largest daemon, MB': Math.max(...all),
      'lag (oldest due), s': lag?.lag ?? 0,
      'rows pending or running': lag?.waiting ?? 0,
      ...Object.fromEntries(
        sizes.flatMap(({ dead, mb }, i) => [
          [`${tables[i]}: dead tuples`, dead],
          [`${tables[i]}: size with indexes, MB`, mb],
        ]),
      ),
    };
  } catch {
    return undefined;
  }
}

/** Of a process, in MB; NaN when it has ended. Linux only. */
function residentMegabytes(pid: number): number {
  try {
    return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1_024;
  } catch {
    return Number.NaN;
  }
}
