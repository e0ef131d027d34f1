/** Runs the built command as users do: a process of its own, with an environment that holds nothing but what is given. */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** The built command; `npm run build` makes it, and so does `npm test`. */
export const COMMAND = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

export type Env = Readonly<Record<string, string | undefined>>;

export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CommandOptions {
  readonly env?: Env;
  readonly cwd?: string;
  /** Run as this user and group. Only root can. */
  readonly uid?: number;
}

/** The command's environment: what a process needs at all, and what the test gives. */
export function commandEnv(env: Env = {}): NodeJS.ProcessEnv {
  const { PATH, HOME, TMPDIR } = process.env;
  const all = { PATH, HOME, TMPDIR, ...env };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
}

/** Starts the command; who calls it must see to its end. */
export function spawnCommand(args: readonly string[], options: CommandOptions = {}) {
  return spawnProgram(COMMAND, args, options);
}

function spawnProgram(program: string, args: readonly string[], { env, cwd, uid }: CommandOptions) {
  if (!existsSync(program)) throw new Error(`${program} is missing: run \`npm run build\` first`);
  return spawn(process.execPath, [program, ...args], {
    env: commandEnv(env),
    cwd,
    ...(uid === undefined ? {} : { uid, gid: uid }),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

/** Runs the command to its end. */
export async function runCommand(args: readonly string[], options?: CommandOptions): Promise<Outcome> {
  return await runProgram(COMMAND, args, options);
}

/** Runs a program of Node to its end, in the same way. */
export async function runProgram(
  program: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<Outcome> {
  const child = spawnProgram(program, args, options);
  const outcome = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    outcome.stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    outcome.stderr += text;
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  return { code, ...outcome };
}

/** The user that a test becomes who must not be root: `nobody` on most systems. */
const NOBODY = 65534;

/**
 * A user who may not do everything: undefined when this process is not root anyway; `impossible` when it is, and that user
 * cannot read this checkout.
 */
export function ordinaryUser(): { uid?: number } | 'impossible' {
  if (process.getuid?.() !== 0) return {};
  const { status } = spawnSync(process.execPath, [COMMAND, '--version'], {
    uid: NOBODY,
    gid: NOBODY,
    env: commandEnv(),
  });
  return status === 0 ? { uid: NOBODY } : 'impossible';
}
