/** `afterdelete run`: the daemon, until it is told to stop. */
import type { Command } from 'commander';
import pRetry from 'p-retry';
import type { Config } from '../config.ts';
import { type HttpEndpoint, type Readiness, startHttp } from '../http.ts';
import { createLogger, type Logger } from '../log.ts';
import { createMetrics, type Metrics } from '../metrics.ts';
import { connectionProblem } from '../outbox/reachability.ts';
import type { Reconciler } from '../reconciler/reconciler.ts';
import { VERSION } from '../version.ts';
import { settingsOf } from './command.ts';
import { createDaemon } from './compose.ts';
import { type ExitCode, named } from './failure.ts';
import { endHanging } from './leave.ts';
import { countEvents, logEvents, refreshGauges, warnOfWeakerRoots } from './observe.ts';

/** Waits between tries to reach the database at the start, in ms. */
const RETRY_MIN = 250;
const RETRY_MAX = 5_000;

export function addRun(program: Command): void {
  program
    .command('run')
    .description('Run the daemon: delete what the outbox says, until SIGTERM.')
    .addHelpText(
      'after',
      `
Needs DATABASE_URL and AFTERDELETE_ROOTS (or --config FILE). It deletes only
strictly inside the roots, and never migrates: run \`afterdelete migrate\` first.
It waits for a database that is not up yet. Log lines are JSON, on standard
output; metrics and health are served on AFTERDELETE_HTTP (127.0.0.1:9464).

SIGTERM or SIGINT: finishes what it has in hand, within AFTERDELETE_SHUTDOWN_GRACE,
hands back the rest, and exits with 0. A second signal ends it at once, with 1:
nothing is lost then either, another daemon takes the rows over. It ends in the
same good order, with 1, when another version has migrated the schema meanwhile.

Example:
  DATABASE_URL=postgres://app@db/app \\
  AFTERDELETE_ROOTS="file:///data/trainings/ s3://my-bucket/results/" \\
  afterdelete run`,
    )
    .action(async (_options: unknown, command: Command) => {
      const config = settingsOf(command);
      await new Daemon(config).run();
    });
}

class Daemon {
  readonly #config: Config;
  readonly #log: Logger;
  readonly #reconciler: Reconciler;
  readonly #metrics: Metrics;
  readonly #abort = new AbortController();
  #http: HttpEndpoint | undefined;
  #waitingFor: string | undefined;
  #stopping = false;
  #signalled = false;

  constructor(config: Config) {
    this.#config = config;
    this.#log = createLogger(config.logLevel);
    this.#reconciler = createDaemon(config, process.env);
    this.#metrics = createMetrics({
      stores: config.stores,
      refresh: () => refreshGauges(this.#reconciler.outbox, this.#metrics),
      onError: error => this.#trouble('reading the backlog for the metrics', error),
    });
    logEvents(this.#reconciler, this.#log);
    const roots = config.roots.map(root => root.uri);
    warnOfWeakerRoots(roots, this.#log);
    countEvents(this.#reconciler, this.#metrics);
    // As at the start: whoever looks after it installs the other version, or migrates.
    this.#reconciler.events.once('schema_changed', () => this.#end(1));
  }

  async run(): Promise<void> {
    for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
      process.on(event, error => {
        this.#log.fatal(
          { event: 'fatal', error },
          `${event}: the daemon ends; its rows are taken over by others`,
        );
        void this.#leave(1);
      });
    }
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => this.#onSignal(signal));
    try {
      await this.#startHttp();
      await this.#startWhenReachable();
    } catch (error) {
      if (this.#stopping) return;
      await this.#http?.close();
      throw named(error, this.#config.databaseUrl);
    }
  }

  async #startHttp(): Promise<void> {
    const { http } = this.#config;
    if (http === 'off') return;
    this.#http = await startHttp({
      listen: http,
      metrics: this.#metrics,
      ready: () => this.#ready(),
      onError: error => this.#trouble('answering over HTTP', error),
    });
    this.#log.info({ event: 'http', url: this.#http.url, version: VERSION }, 'metrics and health are served');
  }

  async #ready(): Promise<Readiness> {
    if (this.#waitingFor !== undefined) return { ok: false, reason: this.#waitingFor };
    return this.#stopping ? { ok: false, reason: 'stopping' } : await this.#reconciler.ready();
  }

  /** A container starts before its database: waits for it, for as long as it takes. */
  async #startWhenReachable(): Promise<void> {
    const { databaseUrl } = this.#config;
    await pRetry(() => this.#reconciler.start(), {
      retries: Number.POSITIVE_INFINITY,
      minTimeout: RETRY_MIN,
      maxTimeout: RETRY_MAX,
      randomize: true,
      signal: this.#abort.signal,
      shouldRetry: ({ error }) => connectionProblem(error, databaseUrl)?.kind === 'unreachable',
      onFailedAttempt: ({ error }) => {
        const problem = connectionProblem(error, databaseUrl);
        if (problem?.kind !== 'unreachable' || problem.message === this.#waitingFor) return;
        this.#waitingFor = problem.message;
        this.#log.warn(
          { event: 'database_unreachable', error: problem.message },
          'waiting for the database; it is tried again and again',
        );
      },
    });
    this.#waitingFor = undefined;
  }

  #onSignal(signal: NodeJS.Signals): void {
    if (this.#signalled) {
      this.#log.warn({ event: 'killed', signal }, 'a second signal: ending at once');
      void this.#leave(1);
      return;
    }
    this.#signalled = true;
    this.#end(0);
  }

  #end(code: ExitCode): void {
    if (this.#stopping) return;
    this.#stopping = true;
    void this.#stop().then(
      () => this.#leave(code),
      error => {
        this.#log.fatal({ event: 'fatal', error }, 'stopping failed');
        return this.#leave(1);
      },
    );
  }

  async #leave(code: ExitCode): Promise<never> {
    await endHanging(message => this.#log.error({ event: 'killed' }, message));
    process.exit(code);
  }

  async #stop(): Promise<void> {
    this.#abort.abort();
    await this.#reconciler.stop();
    await this.#http?.close();
  }

  #trouble(doing: string, error: unknown): void {
    this.#log.warn({ event: 'trouble', doing, error }, `${doing} failed`);
  }
}
