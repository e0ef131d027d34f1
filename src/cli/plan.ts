/** `afterdelete plan`: what would be deleted, looked at and not touched. */
import type { Command } from 'commander';
import type { Config } from '../config.ts';
import type { Cleanup, Context, Handler, Inspection } from '../handlers/contract.ts';
import { Holders, type Objection } from '../outbox/holders.ts';
import { type Found, Operators, type PauseLine } from '../outbox/operators.ts';
import { Outbox } from '../outbox/outbox.ts';
import { outsideMessage, rootOf } from '../reconciler/confine.ts';
import { parseTarget, storeOf } from '../target.ts';
import { action, print, settingsOf, withDatabase } from './command.ts';
import { createHandlers, handlerFor } from './compose.ts';
import type { ExitCode } from './failure.ts';
import { collectId, nowhere, stateOf } from './ids.ts';
import { createLookingContext } from './looking.ts';
import { bytes, counted, duration, moment, plain, shown } from './words.ts';

/** Rows that are shown when no ids are given. */
const NEXT = 20;

type Pending = Found & { readonly state: 'pending' };

export function addPlan(program: Command): void {
  program
    .command('plan')
    .description('Show what would be deleted, where, and when. Touches nothing.')
    .argument('[id...]', `numbers of cleanups; default: the next ${NEXT} that fall due`, collectId)
    .addHelpText(
      'after',
      `
Needs DATABASE_URL and the roots of the daemon that it is about: run it where the
daemon runs, with its settings. It counts what is there now, which takes long for
giant trees. 1 when an id is unknown.

Examples:
  afterdelete plan
  afterdelete plan 4711`,
    )
    .action(
      action(async (ids: string[] | undefined, _options: unknown, command: Command) => {
        const config = settingsOf(command);
        return await withDatabase(config, 'plan', async db => {
          const operators = new Operators(db);
          const planner = new Planner(config, new Outbox(db), new Holders(db));
          try {
            await planner.prepare(await operators.pauses());
            return ids === undefined || ids.length === 0
              ? await planNext(operators, planner)
              : await planThese(ids, operators, planner);
          } finally {
            await planner.close();
          }
        });
      }),
    );
}

async function planNext(operators: Operators, planner: Planner): Promise<ExitCode> {
  const rows = await operators.nextPending(NEXT);
  if (rows.length === 0) print('nothing is pending');
  const pending = rows.filter(row => row.state === 'pending');
  await planner.ask(pending);
  for (const row of pending) print(...(await planner.describe(row)));
  return 0;
}

async function planThese(ids: readonly string[], operators: Operators, planner: Planner): Promise<ExitCode> {
  const rows = await operators.find(ids);
  await planner.ask([...rows.values()].filter(row => row.state === 'pending'));
  let code: ExitCode = 0;
  for (const id of ids) {
    const row = rows.get(id);
    if (row?.state === 'pending') print(...(await planner.describe(row)));
    else if (row !== undefined) print(`${id}  ${shown(row.target)}`, `  ${stateOf(row)}`);
    else {
      process.stderr.write(`${nowhere(id)}\n`);
      code = 1;
    }
  }
  return code;
}

class Planner {
  readonly #config: Config;
  readonly #outbox: Outbox;
  readonly #holders: Holders;
  readonly #handlers: readonly Handler[];
  readonly #roots: readonly string[];
  #elsewhere: readonly string[] = [];
  #pauses: readonly PauseLine[] = [];
  #context: Context | undefined;
  #watches = 0;
  readonly #objections = new Map<string, Objection>();

  constructor(config: Config, outbox: Outbox, holders: Holders) {
    this.#config = config;
    this.#outbox = outbox;
    this.#holders = holders;
    this.#handlers = createHandlers(config, process.env);
    this.#roots = config.roots.map(root => root.uri);
  }

  async prepare(pauses: readonly PauseLine[]): Promise<void> {
    this.#pauses = pauses.filter(pause => pause.worker === null);
    this.#elsewhere = await this.#outbox.liveRoots();
    const identities = new Map<string, string>();
    for (const root of this.#roots) {
      const identity = await this.#outbox.rootIdentity(root);
      if (identity !== undefined) identities.set(root, identity);
    }
    this.#context = createLookingContext({ ...this.#config, identities });
    this.#watches = await this.#holders.watches();
  }

  /** Asks the guard about all of them at once, as a daemon would right before it deletes them. */
  async ask(rows: readonly Pending[]): Promise<void> {
    const answers = await this.#holders.ask(rows.map(row => row.target));
    for (const [n, row] of rows.entries()) {
      const objection = answers[n];
      if (objection !== undefined) this.#objections.set(row.id, objection);
    }
  }

  async close(): Promise<void> {
    for (const handler of this.#handlers) await handler.close?.();
  }

  /** Some lines about one row. */
  async describe(row: Pending): Promise<string[]> {
    const root = rootOf(row.target, this.#roots);
    return [
      `${row.id}  ${shown(row.target)}`,
      `  when: ${whenDue(row)}${this.#pauseOf(row)}`,
      `  guard: ${this.#guardOf(row)}`,
      ...(root === undefined ? this.#outside(row) : await this.#inside(row, root)),
    ];
  }

  #guardOf({ id }: Pending): string {
    const objection = this.#objections.get(id);
    if (objection !== undefined) return `${objection.verdict}: ${plain(objection.reason)}`;
    return this.#watches === 0 ? 'no watches are declared, so no row holds it' : 'nobody holds it';
  }

  #pauseOf({ store }: Pending): string {
    const pause = this.#pauses.find(candidate => candidate.store === store);
    return pause === undefined ? '' : `; but ${plain(store)} is paused by ${pause.by}`;
  }

  /** Why a daemon with these settings would not delete it: another does, it waits for one, or it dies. */
  #outside({ target, store }: Pending): string[] {
    const other = rootOf(target, this.#elsewhere);
    if (other !== undefined) {
      return [`  root: none of these settings, but ${plain(other)}, which another live daemon serves`];
    }
    const roots = [...new Set([...this.#roots, ...this.#elsewhere])];
    const problem = roots.some(root => storeOf(root) === store)
      ? outsideMessage(target, roots)
      : `neither these settings nor a live daemon have a root in ${store}: it waits for one`;
    return ['  root: none', `  problem: ${plain(problem)}`];
  }

  async #inside(row: Pending, root: string): Promise<string[]> {
    const seen = await this.#inspect(row, root);
    const prunes = seen.problem === undefined && row.pruneParents > 0;
    return [
      `  root: ${root}${this.#isNew(root) ? ', which no daemon has served yet: the first one marks it' : ''}`,
      `  deletes: ${describe(seen)}${prunes ? `, then up to ${counted(row.pruneParents, 'empty parent')}` : ''}`,
      ...(seen.problem === undefined ? [] : [`  problem: ${plain(seen.problem)}`]),
    ];
  }

  #isNew(root: string): boolean {
    const marked = handlerFor(root, this.#handlers).identify !== undefined;
    return marked && this.#context?.identity(root) === undefined;
  }

  async #inspect(row: Pending, root: string): Promise<Inspection> {
    const { id, target, attempt, pruneParents } = row;
    const nothing = { exists: false, objects: 0, bytes: null };
    if (this.#context === undefined) throw new Error('prepare() comes first');
    try {
      const cleanup: Cleanup = { id, target: parseTarget(target), root, pruneParents, attempt };
      return await handlerFor(root, this.#handlers).inspect(cleanup, this.#context);
    } catch (error) {
      // One that cannot be looked at is no reason not to look at the others.
      return { ...nothing, problem: error instanceof Error ? error.message : String(error) };
    }
  }
}

function whenDue({ dueIn, at, putBack, message }: Pending): string {
  const after = putBack === null || message === null ? '' : `, after: ${plain(message)}`;
  if (dueIn === null || at === null) return `never (run_at is infinity)${after}`;
  return dueIn <= 0
    ? `now, due for ${duration(-dueIn)}${after}`
    : `in ${duration(dueIn)}, ${moment(at)}${after}`;
}

function describe({ exists, objects, bytes: size, problem }: Inspection): string {
  if (!exists) return problem === undefined ? 'nothing: it is already gone' : 'nothing, as it stands';
  return `${counted(objects, 'object')}${size === null ? '' : `, ${bytes(size)}`}`;
}
