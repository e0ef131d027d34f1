/** `afterdelete pause`: all daemons leave a store alone. */
import type { Command } from 'commander';
import { Operators } from '../outbox/operators.ts';
import { action, print, settingsOf, withDatabase } from './command.ts';
import type { ExitCode } from './failure.ts';
import { parseStore } from './ids.ts';
import { plain } from './words.ts';

export function addPause(program: Command): void {
  program
    .command('pause')
    .description('Stop all daemons from deleting in a store, until `resume`.')
    .argument('<store>', 'e.g. file:// or s3://my-bucket', parseStore)
    .option('--reason <text>', 'why, for those who look at the status')
    .addHelpText(
      'after',
      `
What daemons are deleting just now is finished; the rest waits. Rows that are
written meanwhile wait too: nothing is lost.

Example:
  afterdelete pause s3://my-bucket --reason "restoring a backup, ask Ada"`,
    )
    .action(
      action(async (store: string, { reason }: { reason?: string }, command: Command) => {
        const config = settingsOf(command, { requireDatabase: true, requireRoots: false });
        return await withDatabase<ExitCode>(config, 'pause', async db => {
          const operators = new Operators(db);
          await operators.pause(store, reason);
          print(`${store} is paused for all daemons until \`afterdelete resume ${store}\``);
          const known = await operators.backlog();
          const row = known.find(line => line.store === store);
          if (row === undefined || (!row.served && row.pending + row.running + row.dead === 0)) {
            const others = known.map(line => line.store).filter(other => other !== store);
            print(
              `note: no daemon serves it and it has no rows; is it spelled right? Known: ${list(others)}`,
            );
          }
          return 0;
        });
      }),
    );
}

const list = (stores: readonly string[]) => (stores.length === 0 ? 'none' : plain(stores.join(', ')));
