/** The checks themselves, in the order in which one depends on another. */
import type { Env } from '../config/source.ts';
import type { Config, RootConfig } from '../config.ts';
import { type Database, openDatabase } from '../outbox/database.ts';
import { Holders } from '../outbox/holders.ts';
import { assertSchema } from '../outbox/migrate.ts';
import { Operators } from '../outbox/operators.ts';
import { Outbox } from '../outbox/outbox.ts';
import { WakeUp } from '../outbox/wake.ts';
import { createHandlers, handlerFor } from './compose.ts';
import { named } from './failure.ts';
import { createLookingContext } from './looking.ts';
import { counted, plain } from './words.ts';

export interface Finding {
  readonly verdict: 'ok' | 'warn' | 'FAIL';
  readonly text: string;
}

/** Supported majors of PostgreSQL. */
const OLDEST = 15;
const NEWEST = 18;

const ok = (text: string): Finding => ({ verdict: 'ok', text });
const warn = (text: string): Finding => ({ verdict: 'warn', text });
const fail = (text: string): Finding => ({ verdict: 'FAIL', text });

export class Checks {
  readonly #config: Config;
  readonly #env: Env;
  readonly #db: Database;
  #failed = false;

  constructor(config: Config, env: Env) {
    this.#config = config;
    this.#env = env;
    this.#db = openDatabase(config.databaseUrl, { applicationName: 'afterdelete check', max: 2 });
  }

  /** Whether a finding so far was a failure. */
  get failed(): boolean {
    return this.#failed;
  }

  /** Everything that was found, as soon as it is. */
  async *run(): AsyncGenerator<Finding> {
    try {
      for await (const finding of this.#all()) {
        this.#failed ||= finding.verdict === 'FAIL';
        yield finding;
      }
    } finally {
      await this.#db.destroy();
    }
  }

  async *#all(): AsyncGenerator<Finding> {
    const reached = await this.#database();
    yield reached;
    let schema = false;
    if (reached.verdict !== 'FAIL') {
      const finding = await this.#schema();
      schema = finding.verdict !== 'FAIL';
      yield finding;
      yield await this.#listen();
    }
    // The roots can be looked at without a database, but not compared with what is recorded.
    yield* this.#roots(schema);
    if (schema) {
      yield* this.#watches();
      yield* this.#rows();
    }
  }

  async #database(): Promise<Finding> {
    try {
      const version = await new Operators(this.#db).serverVersion();
      const major = Math.floor(version / 10_000);
      const text = `database: PostgreSQL ${major}.${version % 10_000}`;
      if (major < OLDEST) return fail(`${text}; expected ${OLDEST} to ${NEWEST}`);
      return major > NEWEST ? warn(`${text}; tested with ${OLDEST} to ${NEWEST}`) : ok(text);
    } catch (error) {
      return fail(`database: ${messageOf(named(error, this.#config.databaseUrl))}`);
    }
  }

  async #schema(): Promise<Finding> {
    try {
      await assertSchema(this.#db);
      return ok('schema: that of this version');
    } catch (error) {
      return fail(`schema: ${messageOf(error)}`);
    }
  }

  async #listen(): Promise<Finding> {
    const url = this.#config.listenUrl;
    if (url === 'off') return ok('notifications: off, poll only (AFTERDELETE_LISTEN_URL=off)');
    const direct = openDatabase(url, { applicationName: 'afterdelete check', max: 1 });
    const wakeUp = new WakeUp({
      url,
      applicationName: 'afterdelete check',
      onRing: () => {},
      onListening: () => {},
      notify: payload => new Outbox(this.#db).notify(payload),
    });
    try {
      // It goes on trying in silence: why it cannot connect, if so, is asked for here.
      await new Outbox(direct).ping();
      await wakeUp.start();
      return wakeUp.listening
        ? ok('notifications: LISTEN hears')
        : fail(
            'notifications: LISTEN hears nothing. Expected in AFTERDELETE_LISTEN_URL a direct connection (a pooler in ' +
              'transaction mode passes no notifications on) to the same database, or `off` for poll only',
          );
    } catch (error) {
      return fail(`notifications: ${messageOf(named(error, url))}`);
    } finally {
      await wakeUp.close();
      await direct.destroy();
    }
  }

  async *#roots(recorded: boolean): AsyncGenerator<Finding> {
    const handlers = createHandlers(this.#config, this.#env);
    const identities = new Map<string, string>();
    const context = createLookingContext({ ...this.#config, identities });
    try {
      for (const { uri } of this.#config.roots) {
        const identity = recorded ? await new Outbox(this.#db).rootIdentity(uri) : undefined;
        if (identity !== undefined) identities.set(uri, identity);
        const handler = handlerFor(uri, handlers);
        try {
          // With an identity on record this compares it as well.
          await handler.probe(uri, context);
          yield ok(`root ${uri}: ${describeRoot(identity, handler.identify !== undefined, recorded)}`);
          for (const advice of (await handler.advise?.(uri, context)) ?? [])
            yield warn(`root ${uri}: ${advice}`);
        } catch (error) {
          yield fail(`root ${uri}: ${messageOf(error)}`);
        }
      }
    } finally {
      for (const handler of handlers) await handler.close?.();
    }
  }

  async *#watches(): AsyncGenerator<Finding> {
    const holders = new Holders(this.#db);
    const problems = await holders.problems();
    for (const { subject, broken, problem, remedy } of problems) {
      const text = `${plain(subject)}: ${plain(problem)}. Remedy: ${plain(remedy)}`;
      yield broken ? fail(text) : warn(text);
    }
    if (problems.length > 0) return;
    const count = await holders.watches();
    yield ok(count === 0 ? 'watches: none is declared' : `watches: ${count}, all in order`);
  }

  async *#rows(): AsyncGenerator<Finding> {
    const operators = new Operators(this.#db);
    const live = (await operators.workers()).filter(worker => worker.live);
    yield ok(`daemons: ${live.length === 0 ? 'none runs at the moment' : `${live.length} live`}`);
    const own = this.#config.roots.map((root: RootConfig) => root.store);
    let quiet = true;
    for (const { store, due, retrying, dead, served, paused } of await operators.backlog()) {
      const name = plain(store);
      const waiting = counted(due + retrying, 'row');
      if (!served && due + retrying > 0) {
        quiet = false;
        yield own.includes(store)
          ? warn(`store ${name}: ${waiting} waiting, and no live daemon serves it: start one`)
          : fail(
              `store ${name}: ${waiting} waiting, and neither a live daemon nor these settings have a root in it. ` +
                'Add one, or cancel them',
            );
      }
      if (paused) yield warn(`store ${name}: paused; \`afterdelete status\` says why`);
      if (dead > 0) {
        yield warn(`store ${name}: ${counted(dead, 'dead row')}; \`afterdelete status\` says why`);
      }
      quiet &&= !paused && dead === 0;
    }
    if (quiet) yield ok('rows: none is dead, paused or unserved');
  }
}

function describeRoot(identity: string | undefined, marked: boolean, recorded: boolean): string {
  if (!marked) return 'reachable';
  if (!recorded) return 'reachable; its mark was not compared with the recorded one';
  return identity === undefined
    ? 'reachable, not served yet: the first daemon marks it'
    : `reachable, and the recorded disk (${identity})`;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message || error.name : String(error);
}
