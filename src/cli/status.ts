/** `afterdelete status`: what waits, who works, and what is stuck. */
import type { Command } from 'commander';
import {
  type BacklogLine,
  Operators,
  type PauseLine,
  type StuckLine,
  type WorkerLine,
} from '../outbox/operators.ts';
import { action, print, settingsOf, withDatabase } from './command.ts';
import type { ExitCode } from './failure.ts';
import { counted, duration, plain, shown, table } from './words.ts';

/** Stuck rows that are shown; the view has them all. */
const STUCK = 10;

interface Status {
  readonly backlog: readonly BacklogLine[];
  readonly pauses: readonly PauseLine[];
  readonly workers: readonly WorkerLine[];
  readonly stuck: readonly StuckLine[];
}

export function addStatus(program: Command): void {
  program
    .command('status')
    .description('Show what waits, who works, and what is stuck and why.')
    .option('--json', 'print {backlog, pauses, workers, stuck} as JSON, for programs')
    .addHelpText(
      'after',
      `
Needs DATABASE_URL only. A row of the first table is a store:
  due       may be deleted now          delayed  not due for the first time yet
  retrying  waits after a failed try, or for something that blocks it
  running   a daemon has it in hand     dead     given up: a person must look
  oldest    how long ago the oldest of them was first due
  served    whether a live daemon has a root in that store

Then the ${STUCK} oldest rows that a person should look at; all of them:
  SELECT * FROM afterdelete.stuck

Examples:
  afterdelete status
  afterdelete status --json | jq '.backlog[] | select(.dead > 0)'`,
    )
    .action(
      action(async ({ json }: { json?: true }, command: Command): Promise<ExitCode> => {
        const config = settingsOf(command, { requireDatabase: true, requireRoots: false });
        const { total, ...status } = await withDatabase(config, 'status', async db => {
          const operators = new Operators(db);
          const { rows, total } = await operators.stuck(STUCK);
          return {
            backlog: await operators.backlog(),
            pauses: await operators.pauses(),
            workers: await operators.workers(),
            stuck: rows,
            total,
          };
        });
        print(...(json === true ? [JSON.stringify(status, undefined, 2)] : describe(status, total)));
        return 0;
      }),
    );
}

function describe({ backlog, pauses, workers, stuck }: Status, total: number): string[] {
  return [
    ...describeBacklog(backlog),
    ...section('Paused', pauses.map(describePause)),
    '',
    ...describeWorkers(workers),
    ...section(
      total > stuck.length ? `Stuck (the ${stuck.length} oldest of ${total})` : 'Stuck',
      stuck.flatMap(describeStuck),
    ),
  ];
}

function section(title: string, lines: readonly string[]): string[] {
  return lines.length === 0 ? [] : ['', `${title}:`, ...lines.map(line => `  ${line}`)];
}

function describeBacklog(backlog: readonly BacklogLine[]): string[] {
  if (backlog.length === 0) return ['Nothing waits, and no daemon has been here yet.'];
  return table(
    ['STORE', 'DUE', 'DELAYED', 'RETRYING', 'RUNNING', 'DEAD', 'OLDEST', 'PAUSED', 'SERVED'],
    backlog.map(row => [
      plain(row.store),
      row.due,
      row.delayed,
      row.retrying,
      row.running,
      row.dead,
      row.oldest_due_at === null || row.oldest_due_seconds === null ? '-' : duration(row.oldest_due_seconds),
      row.paused ? 'PAUSED' : 'no',
      row.served ? 'yes' : 'NO',
    ]),
  );
}

function describePause({ store, by, reason, since_seconds, worker }: PauseLine): string {
  const who = worker === null ? `for all daemons by ${by}` : `by ${by} on ${plain(worker)}`;
  const ago = duration(since_seconds);
  const end = worker === null ? ` (afterdelete resume ${plain(store)})` : '';
  return `${plain(store)}  ${who}, ${ago} ago: ${plain(reason ?? 'no reason given')}${end}`;
}

function describeWorkers(workers: readonly WorkerLine[]): string[] {
  if (workers.length === 0) return ['No daemon runs.'];
  return table(
    ['DAEMON', 'VERSION', 'HEARTBEAT', 'STORES'],
    workers.map(worker => [
      plain(worker.name),
      plain(worker.version),
      `${duration(worker.heartbeat_seconds)} ago${worker.live ? '' : ', LOST'}`,
      plain(worker.stores.join(' ')),
    ]),
  );
}

function describeStuck(row: StuckLine): string[] {
  const tries = row.attempt > 0 ? `, ${counted(row.attempt, 'attempt')}` : '';
  const worker = row.worker === null ? '' : `, on ${plain(row.worker)}`;
  return [
    `${row.id}  ${row.reason}  ${shown(row.target)}  (${duration(row.age_seconds)}${tries}${worker})`,
    `    ${plain(row.last_error)}`,
  ];
}
