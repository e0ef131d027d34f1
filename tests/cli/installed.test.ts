import { cpSync, symlinkSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { runProgram } from '../support/command.ts';
import { createDisk } from '../support/disk.ts';

const here = (name: string) => fileURLToPath(new URL(`../../${name}`, import.meta.url));

/** What npm would install: the files of `package.json`, and nothing of the checkout. */
function install(): (name: string) => string {
  const disk = createDisk();
  for (const name of ['dist', 'sql', 'package.json']) cpSync(here(name), disk.at(name), { recursive: true });
  symlinkSync(here('node_modules'), disk.at('node_modules'));
  return disk.at;
}

describe('an installed package', () => {
  it('finds its migrations, and says what the demo needs', async () => {
    const at = install();
    const command = at('dist/cli/main.js');
    expect(await runProgram(command, ['migrate', '--sql'])).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('CREATE SCHEMA IF NOT EXISTS afterdelete'),
    });
    expect(await runProgram(command, ['demo'])).toEqual({
      code: 1,
      stdout: '',
      stderr: expect.stringMatching(/^error: the demo needs a checkout .*development dependencies; .*\n$/),
    });
  });
});
