/** Where settings come from: the YAML file, and the environment over it. */
import { readFileSync } from 'node:fs';
import { LineCounter, parseDocument } from 'yaml';
import { redact, redactConnectionString } from '../redact.ts';
import { problem, show } from './problems.ts';
import { SETTINGS, type Setting, type SettingKey } from './settings.ts';

export type Env = Readonly<Record<string, string | undefined>>;
/** The YAML file's content, unchecked. */
export type File = Readonly<Record<string, unknown>>;
type Value<K extends SettingKey> = (typeof SETTINGS)[K] extends Setting<infer T> ? T : never;

/** Where settings come from: the environment, else the file, else their defaults. */
export class Source {
  readonly #env: Env;
  readonly #file: File;
  readonly #problems: string[];
  readonly #failed = new Set<SettingKey>();

  constructor(env: Env, file: File, problems: string[]) {
    this.#env = env;
    this.#file = file;
    this.#problems = problems;
  }

  /** A setting with a default. A wrong one is told of, and the default stands in so that the rest can be checked. */
  read<K extends SettingKey>(key: K): Value<K> {
    return this.readOptional(key) ?? this.#parse(key, SETTINGS[key].fallback);
  }

  readOptional<K extends SettingKey>(key: K): Value<K> | undefined {
    const raw = this.#raw(key);
    if (raw === undefined) return undefined;
    const result = SETTINGS[key].schema.safeParse(raw);
    if (result.success) return result.data as Value<K>;
    this.#failed.add(key);
    const secret = typeof raw === 'string' && (key === 'databaseUrl' || key === 'listenUrl');
    const got = secret ? redactConnectionString(raw) : show(raw);
    this.#problems.push(problem(this.#name(key), result.error.issues[0]?.message ?? 'something else', got));
    return undefined;
  }

  failed(key: SettingKey): boolean {
    return this.#failed.has(key);
  }

  /** The rule that one setting is at most another; told of the one that the user wrote. */
  checkOrder(low: SettingKey, lowValue: number, high: SettingKey, highValue: number): void {
    if (lowValue <= highValue || this.failed(low) || this.failed(high)) return;
    const [key, bound, other] = this.#raw(high) === undefined ? [low, 'most', high] : [high, 'least', low];
    const expected = `at ${bound} ${this.describe(other)}`;
    this.#problems.push(problem(this.#name(key), expected, show(this.#raw(key))));
  }

  /** Name and value of a setting, e.g. `AFTERDELETE_PREFETCH, which is 4000 by default`. */
  describe(key: SettingKey): string {
    const raw = this.#raw(key);
    return `${this.#name(key)}, which is ${raw === undefined ? `${SETTINGS[key].fallback} by default` : String(raw)}`;
  }

  #parse<K extends SettingKey>(key: K, text: string | undefined): Value<K> {
    return SETTINGS[key].schema.parse(text) as Value<K>;
  }

  #raw(key: SettingKey): unknown {
    return this.#env[SETTINGS[key].env] || (this.#file[key] ?? undefined);
  }

  /** As the user wrote it; what was not written goes by its environment variable. */
  #name(key: SettingKey): string {
    const fromFile = !this.#env[SETTINGS[key].env] && this.#raw(key) !== undefined;
    return fromFile ? key : SETTINGS[key].env;
  }
}

/** What the YAML file says, {} if there is none, undefined if it cannot be used. */
export function readFile(env: Env, configPath: string | undefined, problems: string[]): File | undefined {
  // An empty option is a mistake, often a variable of the shell that is not set; an empty variable is as good as none.
  const path = configPath ?? (env.AFTERDELETE_CONFIG || undefined);
  if (path === undefined) return {};
  const name = configPath === undefined ? 'AFTERDELETE_CONFIG' : '--config';
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    problems.push(problem(name, 'a YAML file that can be read', `${show(path)} (${why})`));
    return undefined;
  }
  const lines = new LineCounter();
  // Pretty errors quote the line they are about, which may hold a password.
  const document = parseDocument(text, { prettyErrors: false, lineCounter: lines });
  for (const error of document.errors) {
    const { line, col } = lines.linePos(error.pos[0]);
    problems.push(problem(`${path}:${line}:${col}`, 'YAML', redact(error.message.replaceAll('\n', ' '))));
  }
  if (document.errors.length > 0) return undefined;
  let content: unknown;
  try {
    content = document.toJS() ?? {};
  } catch (error) {
    // Aliases are followed only now: one may name nothing, or each of them nine others (a "billion laughs").
    const why = error instanceof Error ? error.message : String(error);
    problems.push(problem(path, 'YAML', redact(why.replaceAll('\n', ' '))));
    return undefined;
  }
  if (typeof content === 'object' && content !== null && !Array.isArray(content)) return { ...content };
  problems.push(problem(path, 'a mapping of settings, like `concurrency: 16`', show(content)));
  return undefined;
}
