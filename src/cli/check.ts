/** `afterdelete check`: is everything that the daemon needs reachable and safe? */
import type { Command } from 'commander';
import { adopt } from './adopt.ts';
import { Checks } from './checks.ts';
import { action, print, settingsOf } from './command.ts';
import type { ExitCode } from './failure.ts';

export function addCheck(program: Command): void {
  program
    .command('check')
    .description('Check that all is reachable and safe that the daemon needs.')
    .option('--adopt <root>', 'record what is at this file: root now as the right disk')
    .addHelpText(
      'after',
      `
Needs the daemon's settings; run it where the daemon runs. It looks at the
database, its schema, notifications, and every root, and deletes nothing. Each
line begins with ok, warn or FAIL; 1 when something fails.

A file: root carries .afterdelete-root with a UUID that is recorded in the
database: another disk, or none, must never look like "already deleted". When a
disk was replaced on purpose, --adopt records the UUID that is there now, and
writes one if there is none.

Examples:
  afterdelete check
  afterdelete check --adopt file:///data/trainings/`,
    )
    .action(
      action(async ({ adopt: root }: { adopt?: string }, command: Command): Promise<ExitCode> => {
        const config = settingsOf(command);
        if (root !== undefined) return await adopt(root, config);
        const checks = new Checks(config, process.env);
        for await (const { verdict, text } of checks.run()) print(`${verdict.padEnd(4)}  ${text}`);
        return checks.failed ? 1 : 0;
      }),
    );
}
