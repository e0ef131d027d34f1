/**
 * Reads a Dockerfile, as far as this project's own goes. What it does not know is an error and never passed over, so that
 * the image that is checked here is the one that an engine would build.
 */

/** One instruction, its continuation lines joined. */
export interface Instruction {
  readonly keyword: string;
  readonly text: string;
  /** Where it begins, from 1. */
  readonly line: number;
}

export interface Stage {
  /** After AS; else its number, from 0. */
  readonly name: string;
  readonly base: string;
  readonly steps: readonly Instruction[];
}

export interface ImageConfig {
  readonly env: Readonly<Record<string, string>>;
  readonly workdir: string;
  readonly user: string;
  readonly ports: readonly number[];
  readonly labels: Readonly<Record<string, string>>;
  /** The command of HEALTHCHECK, in exec form. */
  readonly healthcheck: readonly string[];
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
}

const KNOWN = [
  ...['FROM', 'LABEL', 'ENV', 'WORKDIR', 'COPY', 'RUN'],
  ...['USER', 'EXPOSE', 'HEALTHCHECK', 'ENTRYPOINT', 'CMD'],
];

/** @throws Error that names the line, for what is not known. */
export function readDockerfile(text: string): Stage[] {
  const stages: { name: string; base: string; steps: Instruction[] }[] = [];
  for (const instruction of instructions(text)) {
    if (instruction.keyword !== 'FROM') {
      const stage = stages.at(-1);
      if (stage === undefined) throw unknown(instruction, 'FROM comes first');
      stage.steps.push(instruction);
      continue;
    }
    const match = /^(\S+)(?:\s+AS\s+(\S+))?$/i.exec(instruction.text);
    if (match?.[1] === undefined) throw unknown(instruction, 'expected: FROM image [AS name]');
    stages.push({ name: match[2] ?? String(stages.length), base: match[1], steps: [] });
  }
  return stages;
}

function* instructions(text: string): Generator<Instruction> {
  let begun: { text: string; line: number } | undefined;
  for (const [index, raw] of text.split('\n').entries()) {
    const part = raw.trim();
    // Comments may stand between continuation lines; they end nothing.
    if (part === '' || part.startsWith('#')) continue;
    begun = { text: `${begun?.text ?? ''}${part.replace(/\\$/, '')}`, line: begun?.line ?? index + 1 };
    if (part.endsWith('\\')) continue;
    const [, keyword = '', rest = ''] = /^(\w+)\s+(.*)$/.exec(begun.text) ?? [];
    const instruction = { keyword: keyword.toUpperCase(), text: rest.trim(), line: begun.line };
    if (!KNOWN.includes(instruction.keyword))
      throw unknown(instruction, `expected one of ${KNOWN.join(', ')}`);
    yield instruction;
    begun = undefined;
  }
}

export function unknown({ keyword, text, line }: Instruction, why: string): Error {
  return new Error(
    `Dockerfile:${line}: ${keyword} ${text}: ${why} (tests/container knows no more than that)`,
  );
}

/** What the last stage leaves to those who run the image. */
export function imageConfig(stages: readonly Stage[]): ImageConfig {
  const config = {
    env: {} as Record<string, string>,
    labels: {} as Record<string, string>,
    workdir: '/',
    user: '0',
    ports: [] as number[],
    healthcheck: [] as string[],
    entrypoint: [] as string[],
    cmd: [] as string[],
  };
  for (const step of stages.at(-1)?.steps ?? []) {
    if (step.keyword === 'ENV') Object.assign(config.env, assignments(step));
    else if (step.keyword === 'LABEL') Object.assign(config.labels, assignments(step));
    else if (step.keyword === 'WORKDIR') config.workdir = step.text;
    else if (step.keyword === 'USER') config.user = step.text;
    else if (step.keyword === 'EXPOSE') config.ports.push(Number(step.text));
    else if (step.keyword === 'ENTRYPOINT') config.entrypoint = execForm(step, step.text);
    else if (step.keyword === 'CMD') config.cmd = execForm(step, step.text);
    else if (step.keyword === 'HEALTHCHECK') {
      const command = /^(?:--\S+\s+)*CMD\s+(.*)$/.exec(step.text)?.[1];
      config.healthcheck = execForm(step, command ?? '');
    }
  }
  return config;
}

/** `name=value` or `name="value"`, any number of them. */
export function assignments(step: Instruction): Record<string, string> {
  const found: Record<string, string> = {};
  const rest = step.text.replace(/([\w.]+)=(?:"([^"\\$]*)"|([^\s"\\$]*))/g, (_, name, quoted, plain) => {
    found[name] = quoted ?? plain;
    return '';
  });
  if (rest.trim() !== '') throw unknown(step, 'expected name=value, without escapes and variables');
  return found;
}

/** In shell form a shell would stand between the engine and the process, and keep signals to itself. */
function execForm(step: Instruction, text: string): string[] {
  let parts: unknown;
  try {
    parts = JSON.parse(text);
  } catch {
    parts = undefined;
  }
  if (!Array.isArray(parts) || parts.length === 0 || !parts.every(part => typeof part === 'string'))
    throw unknown(step, 'expected the exec form, a JSON list of strings');
  return parts;
}
