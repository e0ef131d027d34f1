/** `afterdelete cancel`: a pending cleanup is given up, and the file stays. */
import type { Command } from 'commander';
import { type Found, Operators } from '../outbox/operators.ts';
import { action, settingsOf, withDatabase } from './command.ts';
import { changeEach, collectId, stateOf } from './ids.ts';

export function addCancel(program: Command): void {
  program
    .command('cancel')
    .description('Give up cleanups that are pending: the files stay.')
    .argument('<id...>', 'numbers of cleanups', collectId)
    .addHelpText(
      'after',
      `
They go to done as \`discarded\`. One that is running is too late to cancel; one
that is dead is given up with \`afterdelete discard\`. 1 when one of the ids could
not be cancelled; the others are.

Example:
  afterdelete plan                 what falls due next?
  afterdelete cancel 4711          not that one`,
    )
    .action(
      action(async (ids: string[], _options: unknown, command: Command) => {
        const config = settingsOf(command, { requireDatabase: true, requireRoots: false });
        return await withDatabase(config, 'cancel', async db => {
          const operators = new Operators(db);
          const apply = (id: string) => operators.cancel(id);
          return await changeEach(operators, ids, { apply, done: 'cancelled, the target stays', refused });
        });
      }),
    );
}

function refused(found: Found): string {
  const hint = {
    running: ', too late',
    dead: '. Give it up with `afterdelete discard`',
    done: '',
    pending: '',
  };
  return `${stateOf(found)}${hint[found.state]}`;
}
