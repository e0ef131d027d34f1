/** `afterdelete resume`: ends a pause by an operator or a fuse. */
import type { Command } from 'commander';
import { Operators } from '../outbox/operators.ts';
import { action, print, settingsOf, withDatabase } from './command.ts';
import type { ExitCode } from './failure.ts';
import { parseStore } from './ids.ts';
import { plain } from './words.ts';

export function addResume(program: Command): void {
  program
    .command('resume')
    .description('End the pause of a store, by `pause` or by a fuse.')
    .argument('<store>', 'as `afterdelete status` shows it, e.g. s3://my-bucket', parseStore)
    .addHelpText(
      'after',
      `
A fuse (AFTERDELETE_FUSE) pauses a store for all daemons when more cleanups of one
of its roots fell due within a window than it allows. \`afterdelete status\` says
which. Cancel what should stay, or it goes: resuming starts a new window.

A daemon that pauses a store by itself, because the storage does not answer or is
not the recorded disk, goes on by itself when that is over.

Example:
  afterdelete resume s3://my-bucket`,
    )
    .action(
      action(async (store: string, _options: unknown, command: Command) => {
        const config = settingsOf(command, { requireDatabase: true, requireRoots: false });
        return await withDatabase<ExitCode>(config, 'resume', async db => {
          const operators = new Operators(db);
          const pauses = (await operators.pauses()).filter(pause => pause.store === store);
          await operators.resume(store);
          const was = pauses.find(pause => pause.worker === null);
          const what = was?.by === 'fuse' ? 'is resumed, and its fuse starts a new window' : 'is resumed';
          print(`${store} ${was === undefined ? 'was not paused' : what}`);
          for (const { worker, by, reason } of pauses) {
            if (worker !== null) {
              print(`note: ${plain(worker)} leaves it alone by itself (${by}): ${plain(reason ?? '')}`);
            }
          }
          return 0;
        });
      }),
    );
}
