/** The command `afterdelete`: puts its parts together, and turns what they throw into messages and exit codes. */
import { Command } from 'commander';
import { VERSION } from '../version.ts';
import { addCancel } from './cancel.ts';
import { addCheck } from './check.ts';
import { addDemo } from './demo.ts';
import { addDiscard } from './discard.ts';
import { report } from './failure.ts';
import { endHanging } from './leave.ts';
import { addMigrate } from './migrate.ts';
import { addPause } from './pause.ts';
import { addPlan } from './plan.ts';
import { addResume } from './resume.ts';
import { addRetry } from './retry.ts';
import { addRun } from './run.ts';
import { addStatus } from './status.ts';

/** In the order in which they are needed, which is that of the help. */
const COMMANDS = [
  addMigrate,
  addCheck,
  addRun,
  addStatus,
  addPlan,
  addRetry,
  addCancel,
  addDiscard,
  addPause,
  addResume,
  addDemo,
];

const program = new Command('afterdelete')
  .description('Deletes files when, and only when, the database rows that hold them are gone.')
  .version(VERSION)
  .option(
    '--config <file>',
    'YAML file with settings; environment variables go over it (default: AFTERDELETE_CONFIG)',
  )
  .configureHelp({ showGlobalOptions: true, sortSubcommands: false })
  .showHelpAfterError('(--help says more)')
  // Before the commands are added: they inherit it. Wrong usage must end with 2, which `report` sees to.
  .exitOverride()
  .addHelpText(
    'after',
    `
Settings come from environment variables, or a YAML file: DATABASE_URL and
AFTERDELETE_ROOTS are what most commands need.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.

Start here:
  afterdelete demo                 see it work, without a database of your own
  afterdelete migrate              create its schema in the database
  afterdelete check                is all there that the daemon needs?
  afterdelete run                  the daemon
  afterdelete status               what waits, and what is stuck`,
  );

for (const add of COMMANDS) add(program);

// `afterdelete cancel 1 2 3 | head -1` closes the pipe early, which is no failure, and no reason not to cancel the rest.
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') process.exit(report(error, process.env));
  });
}

const tell = (message: string) => process.stderr.write(`${message}\n`);

// `run` has begun only, and sees to it itself.
program.hook('postAction', async (_, command) => {
  if (command.name() !== 'run') await endHanging(tell);
});

try {
  await program.parseAsync();
} catch (error) {
  const code = report(error, process.env);
  await endHanging(tell);
  process.exit(code);
}
