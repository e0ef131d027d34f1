/** `afterdelete retry`: a cleanup that was given up, or that waits, is due now. */
import type { Command } from 'commander';
import { type Found, Operators } from '../outbox/operators.ts';
import { action, print, settingsOf, withDatabase } from './command.ts';
import { type ExitCode, UsageError } from './failure.ts';
import { changeEach, collectId, parseStore, stateOf } from './ids.ts';
import { counted } from './words.ts';

interface Options {
  readonly all?: true;
  readonly store?: string;
}

export function addRetry(program: Command): void {
  program
    .command('retry')
    .description('Try cleanups again that are dead, or that wait after an attempt: due now, attempts from 0.')
    .argument('[id...]', 'numbers of cleanups', collectId)
    .option('--all', 'all that are dead, instead of ids')
    .option('--store <store>', 'with --all: only those of one store, e.g. s3://my-bucket', parseStore)
    .addHelpText(
      'after',
      `
Mend first what the error says: \`afterdelete status\` shows it. A delayed cleanup
keeps its delay. 1 when one of the ids could not be retried; the others are.

Examples:
  afterdelete retry 4711 4712
  afterdelete retry --all --store s3://my-bucket`,
    )
    .action(
      action(
        async (ids: string[] | undefined, { all, store }: Options, command: Command): Promise<ExitCode> => {
          const given = ids ?? [];
          if (all === undefined && store !== undefined) throw new UsageError('--store goes with --all');
          if (all === undefined && given.length === 0) throw new UsageError('expected ids, or --all');
          if (all !== undefined && given.length > 0) throw new UsageError('expected ids or --all, got both');
          const config = settingsOf(command, { requireDatabase: true, requireRoots: false });
          return await withDatabase(config, 'retry', async db => {
            const operators = new Operators(db);
            if (all === undefined) {
              const apply = (id: string) => operators.retry(id);
              return await changeEach(operators, given, { apply, done: 'retried, due now', refused });
            }
            const count = await operators.retryAll(store);
            print(`${counted(count, 'dead cleanup')}${store === undefined ? '' : ` of ${store}`} retried`);
            return 0;
          });
        },
      ),
    );
}

function refused(found: Found): string {
  if (found.state !== 'pending') return stateOf(found);
  return found.dueIn !== null && found.dueIn <= 0
    ? `${stateOf(found)}: nothing to wait for`
    : `${stateOf(found)}: it has not failed, and keeps its delay`;
}
