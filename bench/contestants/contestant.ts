/** What the benchmarks compare: afterdelete and its peers, each in its own terms. */
import { unlink } from 'node:fs/promises';
import type { TestDatabase } from '../../tests/support/database.ts';

/** The part of a benchmark's database that a contestant needs. */
export type Db = Pick<TestDatabase, 'sql' | 'url'>;

/** Runs a statement on one connection. */
export type Query = (text: string, values?: unknown[]) => Promise<{ rows: object[] }>;

/** What a contestant is told to do. */
export interface Order {
  readonly url: string;
  /** In its own words; empty: its defaults. */
  readonly settings: Readonly<Record<string, unknown>>;
  /** `noop`: nothing; `files`: unlink what the target names, where what is missing is gone. */
  readonly work: 'noop' | 'files';
  /** The prefix of all targets. */
  readonly root: string;
}

/** Called by the handlers, in the contestant's process. */
export interface Observer {
  /** A handler was called with these targets. */
  begun(targets: readonly string[]): void;
  /** A handler is about to return, with these jobs done. */
  handled(ids: readonly string[]): void;
}

export interface Contestant {
  /** The table in which its jobs wait. */
  readonly table: string;
  install(db: Db): Promise<void>;
  /** Writes jobs number `from` to `to`; `target` is the SQL expression of a target over the number `i`. */
  fill(db: Db, target: string, from: number, to: number): Promise<void>;
  /** What writes single jobs on a connection, inside whatever transaction it is in; and what it takes to end it. */
  openWriter(db: Db): Promise<{ write(on: Query, target: string): Promise<unknown>; end(): Promise<void> }>;
  /** Removes all jobs and all traces of them. */
  clear(db: Db): Promise<void>;
  /** Which of these jobs wait or are in hand. */
  unsettled(db: Db, ids: readonly string[]): Promise<string[]>;
  /** How many jobs wait or are in hand. */
  left(db: Db): Promise<number>;
  /** Loads what is needed, and returns what begins the work, which returns what ends it. In a process of its own. */
  load(order: Order, observer: Observer): Promise<() => Promise<() => Promise<void>>>;
}

/** What a peer's handler does with a job. */
export function carrierOf(order: Order): ((target: string) => Promise<void>) | undefined {
  if (order.work === 'noop') return undefined;
  return async target => {
    try {
      await unlink(target.slice('file://'.length));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  };
}
