/** `afterdelete demo`: see it work, without a database of one's own. */
import { existsSync } from 'node:fs';
import type { Command } from 'commander';
import { action } from './command.ts';
import { Failure } from './failure.ts';

/** The same from `src/cli/` and from `dist/cli/`. */
const DEMO = new URL('../../examples/demo/main.ts', import.meta.url);

export function addDemo(program: Command): void {
  program
    .command('demo')
    .description('See it work: a database, files and objects of its own, all gone afterwards.')
    .addHelpText(
      'after',
      `
Needs no settings, but a checkout with its development dependencies (npm ci): it
brings its own PostgreSQL and S3 server.

Example:
  npm run demo`,
    )
    .action(action(runDemo));
}

/** Its exit code is the command's: 128 and more when a signal ended it. */
async function runDemo(): Promise<number> {
  const missing = 'the demo needs a checkout of afterdelete with its development dependencies';
  if (!existsSync(DEMO)) {
    throw new Failure(
      `${missing}; this is an installed package. Clone the repository, then: npm ci && npm run demo`,
    );
  }
  try {
    const { runDemo } = (await import(DEMO.href)) as { runDemo: () => Promise<number> };
    return await runDemo();
  } catch (error) {
    if ((error as { code?: unknown }).code !== 'ERR_MODULE_NOT_FOUND') throw error;
    throw new Failure(
      `${missing}, and some are not installed: run \`npm ci\` first (${(error as Error).message})`,
    );
  }
}
