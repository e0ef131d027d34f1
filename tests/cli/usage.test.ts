import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { describe, expect, it } from 'vitest';
import { VERSION } from '../../src/version.ts';
import { COMMAND, commandEnv, runCommand } from '../support/command.ts';
import { createDatabase } from '../support/database.ts';
import { createDisk } from '../support/disk.ts';

const COMMANDS = [
  'migrate',
  'check',
  'run',
  'status',
  'plan',
  'retry',
  'cancel',
  'discard',
  'pause',
  'resume',
  'demo',
];

describe('the command', () => {
  it.each(COMMANDS)('%s has help with an example, on standard output, with 0', async name => {
    const { code, stdout, stderr } = await runCommand([name, '--help']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(stdout).toContain(`Usage: afterdelete ${name}`);
    expect(stdout).toMatch(/\nExamples?:\n/);
    for (const line of stdout.split('\n')) expect(line.length).toBeLessThanOrEqual(84);
  });

  it('lists them all, and its exit codes', async () => {
    const { code, stdout } = await runCommand(['--help']);
    expect(code).toBe(0);
    for (const name of COMMANDS) expect(stdout).toMatch(new RegExp(`^  ${name}\\b`, 'm'));
    expect(stdout).toContain('Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.');
  });

  it('tells its version', async () => {
    expect(await runCommand(['--version'])).toEqual({ code: 0, stdout: `${VERSION}\n`, stderr: '' });
  });

  it.each([
    { args: [], says: 'Usage: afterdelete' },
    { args: ['rum'], says: '(Did you mean run?)' },
    { args: ['status', '--jsno'], says: '(Did you mean --json?)' },
    { args: ['status', 'extra'], says: 'too many arguments' },
    { args: ['cancel'], says: "missing required argument 'id'" },
    { args: ['cancel', '-1'], says: 'An id is a whole number from 1' },
    { args: ['cancel', '1.5'], says: 'An id is a whole number from 1' },
    { args: ['retry', '0'], says: 'An id is a whole number from 1' },
    { args: ['discard', '99999999999999999999'], says: 'An id is a whole number from 1' },
    { args: ['discard', '9223372036854775808'], says: 'An id is a whole number from 1' },
    { args: ['plan', 'all'], says: 'An id is a whole number from 1' },
    { args: ['retry'], says: 'expected ids, or --all' },
    { args: ['retry', '1', '--all'], says: 'got both' },
    { args: ['retry', '1', '--store', 's3://x'], says: '--store goes with --all' },
    { args: ['pause', 's3://bucket/'], says: 'without a slash at the end' },
    { args: ['pause'], says: "missing required argument 'store'" },
    { args: ['resume', 'bucket'], says: 'A store is a scheme and an authority' },
  ])('ends with 2 on wrong usage: $args', async ({ args, says }) => {
    const { code, stdout, stderr } = await runCommand(args);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toContain(says);
  });

  it.each([
    'migrate',
    'check',
    'run',
    'status',
    'plan',
    'retry --all',
    'cancel 1',
    'discard 1',
    'pause s3://x',
  ])('ends with 2 without a database to speak to: %s', async line => {
    const { code, stdout, stderr } = await runCommand(line.split(' '));
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toMatch(/^DATABASE_URL: expected a connection string/);
    expect(stderr).not.toMatch(/\n\s+at /);
  });

  it('reads the file of --config, before the command and after it', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    const file = disk.at('config.yaml');
    writeFileSync(file, `databaseUrl: ${db.url}\nroots:\n  - ${disk.root}\n`);
    for (const args of [
      ['--config', file, 'status'],
      ['status', '--config', file],
    ]) {
      expect(await runCommand(args)).toMatchObject({ code: 0, stderr: '' });
    }
    expect(await runCommand(['status'], { env: { AFTERDELETE_CONFIG: file } })).toMatchObject({ code: 0 });
    const missing = await runCommand(['status', '--config', disk.at('none.yaml')]);
    expect(missing.code).toBe(2);
    expect(missing.stderr).toMatch(/^--config: expected a YAML file that can be read/);
  });

  it.each(['migrate', 'status', 'plan', 'cancel 1'])(
    'says in one line where a database should be that is not there, and never the password: %s',
    async line => {
      const { code, stdout, stderr } = await runCommand(line.split(' '), {
        env: { DATABASE_URL: 'postgres://app:hunter2@127.0.0.1:1/app', AFTERDELETE_ROOTS: 'file:///tmp/x/' },
      });
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
      expect(stderr).toMatch(
        /^error: the database at 127\.0\.0\.1:1 cannot be reached: .*ECONNREFUSED.*DATABASE_URL.*\n$/,
      );
      expect(stderr).not.toContain('hunter2');
    },
  );

  it('shows a stack when the log level asks for it, still without the password', async () => {
    const env = { DATABASE_URL: 'postgres://app:hunter2@127.0.0.1:1/app', AFTERDELETE_LOG_LEVEL: 'debug' };
    const { stderr } = await runCommand(['status'], { env });
    expect(stderr).toMatch(/\n\s+at /);
    expect(stderr).toContain('caused by');
    expect(stderr).not.toContain('hunter2');
  });

  it.runIf(existsSync('/dev/full'))('says in one line that its output cannot be written', async () => {
    const db = await createDatabase();
    const shell = spawn('sh', ['-c', 'exec "$0" "$@" > /dev/full', process.execPath, COMMAND, 'status'], {
      env: commandEnv({ DATABASE_URL: db.url }),
    });
    const [stderr, [code]] = await Promise.all([text(shell.stderr), once(shell, 'close')]);
    expect({ code, stderr }).toEqual({ code: 1, stderr: 'error: ENOSPC: no space left on device, write\n' });
  });

  it.each(['status', 'plan', 'retry --all'])(
    'names `afterdelete migrate` where there is no schema: %s',
    async line => {
      const db = await createDatabase({ empty: true });
      const { code, stderr } = await runCommand(line.split(' '), {
        env: { DATABASE_URL: db.url, AFTERDELETE_ROOTS: 'file:///tmp/x/' },
      });
      expect(code).toBe(1);
      expect(stderr).toBe('error: the database has no afterdelete schema: run `afterdelete migrate` first\n');
    },
  );
});
