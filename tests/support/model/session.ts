/** One client of the application: its statements in turn, its commits looked at, and what its transactions have done. */
import type { LimitFunction } from 'p-limit';
import pg from 'pg';
import { confirm } from '../../../src/outbox/enqueue.ts';
import type { Turns } from './turns.ts';
import type { Upload, World } from './world.ts';

/** What a run did, by kind; only what was committed counts. */
export type Coverage = Map<string, number>;

export interface SessionOptions {
  readonly url: string;
  readonly client: number;
  readonly world: World;
  /** One COMMIT at a time, with the looks at the disk before and after. */
  readonly commits: LimitFunction;
  /** Reads what is committed, unless a TRUNCATE is under way. */
  readonly read: () => Promise<void>;
}

export class Session {
  readonly #options: SessionOptions;
  #client: pg.Client;
  #turns: Turns | undefined;
  #coverage: Coverage = new Map();
  #done: string[] = [];
  #reservations = new Map<Upload, string>();

  constructor(options: SessionOptions) {
    this.#options = options;
    this.#client = new pg.Client({ connectionString: options.url });
  }

  async connect(): Promise<void> {
    this.#client.on('error', () => {});
    await this.#client.connect();
  }

  async close(): Promise<void> {
    await this.#client.end();
  }

  /** A part of a run begins: in turn with the others, or alone. */
  join(turns: Turns | undefined, coverage: Coverage): void {
    this.#turns = turns;
    this.#coverage = coverage;
  }

  async query<Row extends object = Record<string, unknown>>(
    text: string,
    values?: unknown[],
  ): Promise<pg.QueryResult<Row & pg.QueryResultRow>> {
    return await this.inTurn(() => this.#client.query<Row & pg.QueryResultRow>(text, values));
  }

  async inTurn<T>(statement: () => Promise<T>): Promise<T> {
    return this.#turns === undefined
      ? await statement()
      : await this.#turns.take(this.#options.client, statement);
  }

  /** Waits for something that the other client need not wait for. */
  async outside<T>(wait: Promise<T>): Promise<T> {
    this.#turns?.leave(this.#options.client);
    return await wait;
  }

  /** The script has ended. */
  leave(): void {
    this.#turns?.leave(this.#options.client);
  }

  /** What has been done, if it is committed. */
  did(...what: string[]): void {
    this.#done.push(...what);
  }

  /** What happened, whether anything is committed or not. */
  saw(what: string): void {
    this.#coverage.set(what, (this.#coverage.get(what) ?? 0) + 1);
  }

  reserved(upload: Upload, reservation: string): void {
    this.#reservations.set(upload, reservation);
  }

  /** The row that holds it is written: it stays. */
  async confirm(uploads: readonly Upload[]): Promise<void> {
    for (const upload of uploads) {
      const id = this.#reservations.get(upload);
      if (id === undefined) throw new Error(`${upload.target} was not reserved`);
      await confirm({ query: (text, values) => this.query(text, values) }, id);
    }
  }

  async begin(isolation: string, actor: string): Promise<void> {
    this.#done = [];
    await this.query(`BEGIN ISOLATION LEVEL ${isolation}; SET LOCAL afterdelete.actor = '${actor}'`);
  }

  /** How much has been done, to forget what a savepoint takes back. */
  get mark(): number {
    return this.#done.length;
  }

  forgetSince(mark: number): void {
    this.#done.length = mark;
  }

  async commit(): Promise<void> {
    const { world, commits, read } = this.#options;
    await this.inTurn(() =>
      commits(async () => {
        world.check('before a COMMIT');
        await this.#client.query('COMMIT');
        await read();
        world.check('after a COMMIT');
      }),
    );
    for (const what of this.#done) this.saw(what);
    this.#done = [];
  }

  async rollback(): Promise<void> {
    this.#done = [];
    await this.query('ROLLBACK');
  }

  /** The client vanishes in the middle of its transaction. */
  async crash(): Promise<void> {
    this.#done = [];
    await this.inTurn(async () => {
      this.#client.connection.stream.destroy();
      this.#client = new pg.Client({ connectionString: this.#options.url });
      await this.connect();
    });
  }
}
