/** A Python with what the example needs, in a directory of its own; or the reason why there is none. */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { example } from './support.ts';

export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Python {
  /** Runs the interpreter; `service` can be imported. */
  run(args: readonly string[], env: Readonly<Record<string, string>>): Promise<Ended>;
  remove(): void;
}

/** Longest that making it may take, in ms: an index that does not answer must not hold up the suite. */
const LIMIT = 100_000;
const INTERPRETERS = process.platform === 'win32' ? ['python'] : ['python3', 'python'];
const SUITABLE = 'import sys; sys.exit(sys.version_info < (3, 10))';

/** Makes a virtual environment with the pinned packages. A string says why that is not possible here. */
export async function createPython(): Promise<Python | string> {
  const directory = mkdtempSync(join(tmpdir(), 'afterdelete-python-'));
  const remove = () => rmSync(directory, { recursive: true, force: true });
  const reason = await install(directory).catch(error => String(error));
  if (reason !== undefined) {
    remove();
    return reason;
  }
  return {
    remove,
    run: async (args, env) =>
      await run(interpreter(directory), args, {
        ...process.env,
        ...env,
        PYTHONPATH: example('python'),
        PYTHONDONTWRITEBYTECODE: '1',
      }),
  };
}

const interpreter = (directory: string) =>
  process.platform === 'win32' ? join(directory, 'Scripts', 'python.exe') : join(directory, 'bin', 'python');

/** Returns why it cannot be done; undefined when it is done. */
async function install(directory: string): Promise<string | undefined> {
  let python: string | undefined;
  for (const name of INTERPRETERS) {
    const found = await run(name, ['-c', SUITABLE]).catch(() => undefined);
    if (found?.code === 0) python ??= name;
  }
  if (python === undefined) return 'there is no Python 3.10 or newer';
  const venv = await run(python, ['-m', 'venv', directory]);
  if (venv.code !== 0) return `Python cannot make a virtual environment: ${lastLine(venv)}`;
  // No retries, and nothing is compiled: what takes long or needs a compiler is not worth waiting for.
  const options = [
    '--disable-pip-version-check',
    '--retries',
    '0',
    '--timeout',
    '10',
    '--only-binary',
    ':all:',
  ];
  const requirements = example('python/requirements.txt');
  const pip = await run(interpreter(directory), ['-m', 'pip', 'install', ...options, '-r', requirements]);
  return pip.code === 0 ? undefined : `its packages cannot be installed: ${lastLine(pip)}`;
}

function lastLine({ code, stdout, stderr }: Ended): string {
  const lines = `${stdout}\n${stderr}`.trim().split('\n');
  return lines.findLast(line => /error/i.test(line)) ?? lines.at(-1) ?? `exit code ${code}`;
}

async function run(
  program: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = process.env,
): Promise<Ended> {
  const child = spawn(program, args, { env, stdio: ['ignore', 'pipe', 'pipe'], timeout: LIMIT });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  return { code, stdout, stderr };
}
