/** `afterdelete discard`: a dead cleanup is given up for good. */
import type { Command } from 'commander';
import { type Found, Operators } from '../outbox/operators.ts';
import { action, settingsOf, withDatabase } from './command.ts';
import { changeEach, collectId, stateOf } from './ids.ts';

export function addDiscard(program: Command): void {
  program
    .command('discard')
    .description('Give up cleanups that are dead: what is left of their targets stays.')
    .argument('<id...>', 'numbers of cleanups', collectId)
    .option('--note <text>', 'why, for the audit trail')
    .addHelpText(
      'after',
      `
They go to done as \`discarded\`, with the note and what they died of. One that is
pending is given up with \`afterdelete cancel\`. 1 when one of the ids could not be
discarded; the others are.

Example:
  afterdelete discard 4711 --note "the bucket was deleted by hand"`,
    )
    .action(
      action(async (ids: string[], { note }: { note?: string }, command: Command) => {
        const config = settingsOf(command, { requireDatabase: true, requireRoots: false });
        return await withDatabase(config, 'discard', async db => {
          const operators = new Operators(db);
          const apply = (id: string) => operators.discard(id, note);
          return await changeEach(operators, ids, { apply, done: 'discarded, what is left stays', refused });
        });
      }),
    );
}

function refused(found: Found): string {
  const hint = found.state === 'pending' ? '. Give it up with `afterdelete cancel`' : '';
  return `${stateOf(found)}${hint}`;
}
