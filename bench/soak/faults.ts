/** What goes wrong in a soak, one thing after the other and some at a time, as the seed has it. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Fault, INTERNAL_ERROR, type S3Server, SLOW_DOWN } from '../../tests/s3-server/server.ts';
import type { TestDatabase } from '../../tests/support/database.ts';
import type { Fleet } from '../../tests/support/fleet.ts';
import type { PostgresServer } from '../../tests/support/postgres.ts';
import type { random } from '../../tests/support/random.ts';
import type { World } from './world.ts';

export interface FaultsOptions {
  readonly fleet: Fleet;
  readonly server: PostgresServer;
  readonly db: TestDatabase;
  readonly s3: S3Server;
  readonly world: World;
  readonly random: ReturnType<typeof random>;
  /** How many daemons there are to be. */
  readonly daemons: number;
  /** In ms. */
  readonly lease: number;
  readonly log: (line: string) => void;
}

/** Waits between two faults, in ms: somewhere between these. */
const QUIET_MIN = 500;
const QUIET_MAX = 4_000;
/** Longest that a daemon may take to end in good order, in ms. */
const GRACE = 30_000;

export class Faults {
  /** How often each has struck. */
  readonly counts = new Map<string, number>();
  /** What a daemon did that none should, a line each. */
  readonly wrong: string[] = [];
  readonly #options: FaultsOptions;
  readonly #ended = new Set<ChildProcess>();
  readonly #underWay = new Map<string, Promise<void>>();
  #veteran: ChildProcess | undefined;
  #over = false;
  #striking: Promise<void> | undefined;

  constructor(options: FaultsOptions) {
    this.#options = options;
  }

  /** A daemon that is never ended: what it needs after hours, it needs for good. */
  get veteran(): ChildProcess | undefined {
    return this.#veteran;
  }

  /** Starts the daemons, and nothing else yet. */
  startDaemons(): void {
    for (let i = 0; i < this.#options.daemons; i++) this.#startDaemon();
  }

  start(): void {
    this.#striking = this.#strike();
  }

  /** Ends with everything as it should be. */
  async stop(): Promise<void> {
    this.#over = true;
    await this.#striking;
    await Promise.all(this.#underWay.values());
    this.#options.s3.faults.clear();
  }

  /** Ends all daemons in good order. */
  async endDaemons(): Promise<void> {
    await Promise.all([...this.#options.fleet.daemons].map(daemon => this.#terminate(daemon)));
  }

  #startDaemon(): void {
    const daemon = this.#options.fleet.start();
    this.#veteran ??= daemon;
    daemon.once('close', (code, signal) => {
      if (!this.#ended.has(daemon)) this.wrong.push(`a daemon ended by itself: ${code ?? signal}`);
    });
  }

  async #strike(): Promise<void> {
    const { random, log } = this.#options;
    const faults = Object.entries(this.#faults);
    while (!this.#over) {
      await sleep(QUIET_MIN + random.below(QUIET_MAX - QUIET_MIN));
      const [name, fault] = random.pick(faults);
      if (this.#over || this.#underWay.has(name)) continue;
      log(name);
      this.counts.set(name, (this.counts.get(name) ?? 0) + 1);
      const struck = fault()
        .catch(error => void this.wrong.push(`${name}: ${String(error)}`))
        .then(() => void this.#underWay.delete(name));
      this.#underWay.set(name, struck);
    }
  }

  readonly #faults: Readonly<Record<string, () => Promise<void>>> = {
    'a daemon is killed, another started': async () => {
      const victim = await this.#victim();
      if (victim === undefined) return;
      this.#ended.add(victim);
      const closed = once(victim, 'close');
      victim.kill('SIGKILL');
      await closed;
      this.#startDaemon();
    },
    'a daemon is told to end, another started': async () => {
      const victim = await this.#victim();
      if (victim === undefined) return;
      this.#startDaemon();
      await this.#terminate(victim);
    },
    'a daemon is stopped past its lease, and goes on': async () => {
      const { random, fleet, lease } = this.#options;
      const victim = random.pick([...fleet.daemons]);
      victim.kill('SIGSTOP');
      await sleep(lease * (1.3 + random.below(10) / 10));
      victim.kill('SIGCONT');
    },
    'all sessions of the daemons are terminated': async () => {
      await this.#terminateBackends("application_name LIKE 'afterdelete%'");
    },
    'sessions that listen or hold keys are terminated': async () => {
      await this.#terminateBackends(
        "query LIKE 'LISTEN%' OR pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')",
      );
    },
    'PostgreSQL is restarted': () => this.#restart('fast'),
    'PostgreSQL crashes': () => this.#restart('immediate'),
    'an old snapshot is held open': async () => {
      const client = await this.#options.db.connect().catch(() => undefined);
      // A restart ends it early.
      await client?.query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1').catch(() => {});
      await this.#while(15_000);
      await client?.end().catch(() => {});
    },
    'the disk is not mounted': async () => {
      const bring = this.#options.world.takeAway();
      await this.#while(4_000);
      bring();
    },
    'the S3 server is down': async () => {
      const { s3 } = this.#options;
      await s3.stop();
      await this.#while(3_000);
      await s3.start();
    },
    'the S3 server fails': async () => {
      const { s3, random } = this.#options;
      const faults: readonly Fault[] = [
        SLOW_DOWN,
        INTERNAL_ERROR,
        { kind: 'reset', when: 'before' },
        { kind: 'reset', when: 'after_commit' },
        { kind: 'hang', when: 'after_commit' },
      ];
      s3.faults.next(random.pick(faults), 1 + random.below(20));
    },
  };

  /** A daemon that may end: the busiest. */
  async #victim(): Promise<ChildProcess | undefined> {
    const { fleet, db } = this.#options;
    const mortal = [...fleet.daemons].filter(each => each !== this.#veteran && !this.#ended.has(each));
    return await fleet.busiest(db, mortal);
  }

  async #terminate(daemon: ChildProcess): Promise<void> {
    this.#ended.add(daemon);
    const closed = once(daemon, 'close');
    daemon.kill('SIGTERM');
    const timer = setTimeout(() => {
      this.wrong.push(`a daemon did not end within ${GRACE / 1_000} s of SIGTERM`);
      daemon.kill('SIGKILL');
    }, GRACE);
    const [code, signal] = await closed;
    clearTimeout(timer);
    if (code !== 0 && signal !== 'SIGKILL')
      this.wrong.push(`a daemon ended after SIGTERM with ${code ?? signal}`);
  }

  async #terminateBackends(which: string): Promise<void> {
    const query = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND (${which})`;
    // PostgreSQL may be down just now.
    await this.#options.db.sql(query).catch(() => {});
  }

  async #restart(mode: 'fast' | 'immediate'): Promise<void> {
    const { server } = this.#options;
    // One restart at a time.
    for (const other of ['PostgreSQL is restarted', 'PostgreSQL crashes'])
      if (this.#underWay.has(other)) return;
    await server.stop(mode);
    await this.#while(2_000);
    await server.start();
  }

  /** A while of at most so many ms. */
  async #while(most: number): Promise<void> {
    await sleep(most / 4 + this.#options.random.below((3 * most) / 4));
  }
}
