/** One session with one transaction at most: it can pause inside a statement, wait for others, and be ended later. */
import { Kysely, PostgresDialect, type PostgresPool } from 'kysely';
import pg from 'pg';
import { Outbox } from '../../../src/outbox/outbox.ts';
import type { Schema } from '../../../src/outbox/schema.ts';
import type { Deed } from './deeds.ts';
import type { Observer, Point } from './observer.ts';

/** How long a statement has before it is asked whether it waits for somebody, in ms. No result depends on it. */
const MOMENT = 2;
/** A statement that neither ends nor waits for a lock for so long is a fault of the test, in ms. */
const FOREVER = 20_000;

export class Lane {
  readonly name: string;
  readonly number: number;
  readonly #observer: Observer;
  readonly #client: pg.Client;
  /** The real one; what it sends is part of this session's transaction. */
  readonly outbox: Outbox;
  #pid = 0;
  #held = false;
  #running: Promise<void> | undefined;
  #error: unknown;
  /** The end of its last statement has been looked at: it may come at any moment once nobody is in its way. */
  reported = true;
  /** What the open transaction does. */
  deed: Deed | undefined;

  constructor(name: string, number: number, url: string, observer: Observer) {
    this.name = name;
    this.number = number;
    this.#observer = observer;
    this.#client = new pg.Client({ connectionString: url });
    this.#client.on('error', () => {});
    const only = {
      query: (text: string, values: readonly unknown[]) => this.#client.query(text, [...values]),
    };
    const pool = { connect: async () => ({ ...only, release: () => {} }), end: async () => {} };
    this.outbox = new Outbox(
      new Kysely<Schema>({ dialect: new PostgresDialect({ pool: pool as unknown as PostgresPool }) }),
    );
  }

  async open(): Promise<void> {
    await this.#client.connect();
    const { rows } = await this.#client.query<{ pid: number }>(
      `SELECT pg_backend_pid() AS pid, set_config('protocol.lane', $1, false)`,
      [String(this.number)],
    );
    this.#pid = (rows[0] as { pid: number }).pid;
  }

  async close(): Promise<void> {
    await this.#client.end();
  }

  async sql<T extends pg.QueryResultRow>(text: string, values: unknown[] = []): Promise<T[]> {
    return (await this.#client.query<T>(text, values)).rows;
  }

  /** A transaction is open. */
  get active(): boolean {
    return this.deed !== undefined;
  }

  /** A statement is under way: it pauses or waits for others. */
  get busy(): boolean {
    return this.#running !== undefined;
  }

  get error(): unknown {
    return this.#error;
  }

  async begin(deed: Deed, isolation = 'read committed'): Promise<void> {
    this.deed = deed;
    await this.#client.query(`BEGIN ISOLATION LEVEL ${isolation}`);
  }

  /** Sends a statement; returns when it has ended, or waits for somebody, or pauses. */
  async send(pause: Point | undefined, statement: () => Promise<void>): Promise<void> {
    if (pause !== undefined) {
      await this.#observer.hold(this.number);
      this.#held = true;
      await this.#client.query(`SET LOCAL protocol.pause = '${pause}'`);
    }
    this.reported = false;
    this.#running = statement()
      .catch((error: unknown) => {
        this.#error = error ?? new Error('failed');
      })
      .finally(() => {
        this.#running = undefined;
      });
    await this.rest();
  }

  /** Lets a statement go on that pauses. */
  async release(): Promise<void> {
    if (!this.#held) return;
    this.#held = false;
    await this.#observer.release(this.number);
  }

  get held(): boolean {
    return this.#held;
  }

  /** Until the statement under way has ended, or waits for somebody. */
  async rest(): Promise<void> {
    const since = performance.now();
    while (this.#running !== undefined) {
      await Promise.race([this.#running, new Promise(resolve => setTimeout(resolve, MOMENT))]);
      if (this.#running === undefined) break;
      if ((await this.#observer.waiting([this.#pid])).has(this.#pid)) return;
      if (performance.now() - since > FOREVER)
        throw new Error(
          `${this.name}: a statement has been under way for ${FOREVER} ms and waits for nobody`,
        );
    }
    await this.release();
  }

  async end(how: 'commit' | 'rollback'): Promise<void> {
    // A statement that was in somebody's way, and not at its pause, may have ended by itself since: held twice, it would never go on.
    await this.release();
    await this.#client.query(this.#error === undefined && how === 'commit' ? 'COMMIT' : 'ROLLBACK');
    this.deed = undefined;
    this.#error = undefined;
  }
}
