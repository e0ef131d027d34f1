/** Carries a Dockerfile's steps out in directories: one a stage, which stands for the file system of that stage. */
import { spawn } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
} from 'node:fs';
import { basename, delimiter, join } from 'node:path';
import {
  assignments,
  type ImageConfig,
  type Instruction,
  imageConfig,
  readDockerfile,
  type Stage,
  unknown,
} from './dockerfile.ts';

export interface Image {
  readonly config: ImageConfig;
  /** The directory that stands for `/`. */
  readonly root: string;
  /** The directory with what the base image has in its PATH, as far as it is needed: `node`. */
  readonly bin: string;
  /** An absolute path of the image, as it is on this machine; anything else stays as it is. */
  map(path: string): string;
}

export interface BuildOptions {
  /** The checkout. */
  readonly context: string;
  /** An empty directory. */
  readonly work: string;
  readonly log: (line: string) => void;
  /** Gets a function that ends what a step has started, for whoever is interrupted; afterwards it does nothing. */
  readonly onStart: (end: () => void) => void;
}

/** The longest that one RUN may take, in ms. */
const RUN_LIMIT = 300_000;

/** @throws Error when a step fails, with its output. */
export async function buildImage(options: BuildOptions): Promise<Image> {
  const { context, work, log } = options;
  const stages = readDockerfile(readFileSync(join(context, 'Dockerfile'), 'utf8'));
  const ignored = readIgnored(join(context, '.dockerignore'));
  const bin = join(work, 'base/bin');
  mkdirSync(bin, { recursive: true });
  // The base image's Node is the one that runs this; a copy, because another user must be able to reach it.
  copyFileSync(process.execPath, join(bin, 'node'));
  chmodSync(join(bin, 'node'), 0o755);

  const rootOf = (stage: string) => join(work, 'stages', stage);
  for (const stage of stages) {
    let workdir = '/';
    const env: Record<string, string> = {};
    mkdirSync(rootOf(stage.name), { recursive: true });
    const at = (path: string) => join(rootOf(stage.name), path.startsWith('/') ? path : join(workdir, path));
    for (const [index, step] of stage.steps.entries()) {
      const began = performance.now();
      if (step.keyword === 'WORKDIR') {
        if (!step.text.startsWith('/')) throw unknown(step, 'expected an absolute path');
        workdir = step.text;
        mkdirSync(at('.'), { recursive: true });
      } else if (step.keyword === 'ENV') Object.assign(env, assignments(step));
      else if (step.keyword === 'COPY') copy(step, { context, ignored, rootOf, at, stages });
      else if (step.keyword === 'RUN') await run(step, at('.'), env, bin, options);
      const seconds = (performance.now() - began) / 1000;
      const took = seconds < 0.1 ? '' : ` (${seconds.toFixed(1)} s)`;
      log(
        `[${stage.name} ${index + 1}/${stage.steps.length}] ${step.keyword} ${shortened(step.text)}${took}`,
      );
    }
  }
  const root = rootOf(stages.at(-1)?.name ?? '');
  const map = (path: string) =>
    path.startsWith('/') && existsSync(join(root, path)) ? join(root, path) : path;
  return { config: imageConfig(stages), root, bin, map };
}

const shortened = (text: string) => (text.length > 90 ? `${text.slice(0, 89)}…` : text);

interface Copying {
  readonly context: string;
  readonly ignored: (name: string) => boolean;
  readonly rootOf: (stage: string) => string;
  readonly at: (path: string) => string;
  readonly stages: readonly Stage[];
}

/** As an engine does it: of a directory it copies what is in it, a file goes into a directory or gets a name. */
function copy(step: Instruction, { context, ignored, rootOf, at, stages }: Copying): void {
  const [, from, paths = ''] = /^(?:--from=(\S+)\s+)?(.*)$/.exec(step.text) ?? [];
  const sources = paths.split(/\s+/);
  const target = sources.pop() ?? '';
  if (sources.length === 0 || /--|[*?["$]/.test(paths))
    throw unknown(step, 'expected: COPY [--from=stage] path… path');
  if (from !== undefined && !stages.some(stage => stage.name === from))
    throw unknown(step, `no stage ${from}`);
  for (const source of sources) {
    const [first = ''] = source.replace(/^\.?\//, '').split('/');
    if (from === undefined && ignored(first)) throw unknown(step, `.dockerignore keeps ${source} out`);
    const path = join(from === undefined ? context : rootOf(from), source);
    if (!existsSync(path)) throw unknown(step, `no ${source}`);
    const into =
      target.endsWith('/') && !statSync(path).isDirectory() ? join(target, basename(source)) : target;
    // Verbatim: links in node_modules/.bin are relative, and must not lead back to the stage they come from.
    cpSync(path, at(into), { recursive: true, verbatimSymlinks: true });
  }
}

/** A list of names at the top: `*` shuts all out, `!name` lets one in. */
function readIgnored(file: string): (name: string) => boolean {
  const lines = readFileSync(file, 'utf8')
    .split('\n')
    .map(line => line.trim())
    .filter(line => line !== '' && !line.startsWith('#'));
  const strange = lines.slice(1).find(line => !/^![\w.-]+$/.test(line));
  if (lines[0] !== '*' || strange !== undefined)
    throw new Error(`.dockerignore: expected * and then !name lines, got ${strange ?? lines[0]}`);
  return name => !lines.includes(`!${name}`);
}

/** What this process was told by the npm that runs it is not for the npm in there; NODE_ENV would leave the compiler out. */
const INHERITED =
  /^(npm_(package|lifecycle|command|execpath|node_execpath)|npm_config_(local_prefix|user_agent)|NODE_ENV$)/i;

async function run(
  step: Instruction,
  cwd: string,
  env: Readonly<Record<string, string>>,
  bin: string,
  { onStart }: BuildOptions,
): Promise<void> {
  const inherited = Object.entries(process.env).filter(([name]) => !INHERITED.test(name));
  const child = spawn('/bin/sh', ['-c', step.text], {
    cwd,
    env: { ...Object.fromEntries(inherited), PATH: `${bin}${delimiter}${process.env.PATH}`, ...env },
    // A process group of its own: what the shell has started must end with it.
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const pid = child.pid ?? 0;
  let ended = false;
  const end = () => {
    if (!ended) process.kill(-pid, 'SIGKILL');
  };
  onStart(end);
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
  }
  const timer = setTimeout(end, RUN_LIMIT);
  const code = await new Promise<number | string | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => resolve(code ?? signal));
  });
  ended = true;
  clearTimeout(timer);
  if (code !== 0) throw new Error(`Dockerfile:${step.line}: RUN ${step.text} ended with ${code}:\n${output}`);
}

/** Bytes of all files below. */
export function sizeOf(path: string): number {
  const stat = lstatSync(path);
  if (!stat.isDirectory()) return stat.size;
  return readdirSync(path).reduce((sum, name) => sum + sizeOf(join(path, name)), 0);
}
