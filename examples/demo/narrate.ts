/**
 * The demo's voice: titles, SQL, comments, and claims. A claim is compared with what was found before it is printed,
 * so that the demo cannot say what is not so: the first false claim ends it, with exit code 1.
 */
import { inspect, isDeepStrictEqual, styleText } from 'node:util';

/** What the voice needs of `process.stdout`. */
export interface Output {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  readonly columns?: number;
  hasColors?(): boolean;
}

/** Something that the demo says is not so. */
export class FalseClaim extends Error {
  override readonly name = 'FalseClaim';
  readonly expected: unknown;
  readonly found: unknown;

  constructor(claim: string, expected: unknown, found: unknown) {
    super(claim);
    this.expected = expected;
    this.found = found;
  }
}

type Style = Parameters<typeof styleText>[0];

const NARROWEST = 60;
const WIDEST = 110;

export class Narrator {
  readonly #output: Output;
  readonly #colours: boolean;
  readonly #width: number;
  readonly #signal: AbortSignal | undefined;
  #chapters = 0;
  #checks = 0;

  /** Once the signal is aborted, every method throws its reason: so that a story ends where it stands. */
  constructor(output: Output = process.stdout, signal?: AbortSignal) {
    this.#output = output;
    this.#signal = signal;
    // hasColors() also heeds NO_COLOR; a pipe or a file has none.
    this.#colours = output.isTTY === true && (output.hasColors?.() ?? false);
    this.#width = Math.min(WIDEST, Math.max(NARROWEST, output.columns ?? WIDEST));
  }

  /** Claims made so far; all of them were true. */
  get checks(): number {
    return this.#checks;
  }

  title(text: string): void {
    this.#chapters += 1;
    this.#line('');
    this.#line(this.#styled(['bold', 'cyan'], `${this.#chapters}. ${text}`));
  }

  /** A comment: who does what, and why. */
  say(text: string): void {
    this.#paragraph(text, '   ');
  }

  /** SQL as it is about to be sent, to the letter. */
  sql(text: string): void {
    for (const line of text.split('\n')) this.#line(this.#styled('yellow', `     ${line}`));
  }

  /** A row of the database, a column a line. */
  record(row: Readonly<Record<string, unknown>>): void {
    const longest = Math.max(...Object.keys(row).map(name => name.length));
    for (const [name, value] of Object.entries(row)) {
      const label = `     ${name.padEnd(longest)}  `;
      this.#paragraph(String(value), ' '.repeat(label.length), this.#styled('dim', label));
    }
  }

  /**
   * Says something that is so, with a ✓.
   * @throws FalseClaim when what was found is not what was expected; the two are compared in depth.
   */
  check(claim: string, found: unknown, expected: unknown): void {
    if (!isDeepStrictEqual(found, expected)) throw new FalseClaim(claim, expected, found);
    this.#checks += 1;
    this.#paragraph(claim, '     ', `   ${this.#styled('green', '✓')} `);
  }

  /** What ended the demo before its end. */
  failure(error: unknown): void {
    this.#line('');
    if (error instanceof FalseClaim) {
      this.#paragraph(error.message, '     ', `   ${this.#styled('red', '✗')} `);
      const [expected, found] = ['     expected: ', '     found:    '];
      this.#paragraph(shown(error.expected), ' '.repeat(expected.length), expected);
      this.#paragraph(shown(error.found), ' '.repeat(found.length), found);
    } else {
      const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
      this.#line(this.#styled('red', `   ✗ The demo could not go on: ${text}`));
    }
  }

  #paragraph(text: string, indent: string, first = indent): void {
    for (const [n, line] of wrap(text, this.#width - indent.length).entries()) {
      this.#line(`${n === 0 ? first : indent}${line}`.trimEnd());
    }
  }

  #styled(style: Style, text: string): string {
    return this.#colours ? styleText(style, text, { validateStream: false }) : text;
  }

  #line(text: string): void {
    this.#signal?.throwIfAborted();
    this.#output.write(`${text}\n`);
  }
}

/** One story, ready to be told. */
export interface Chapter {
  readonly title: string;
  tell(): Promise<void>;
}

/**
 * Tells the stories in turn. Returns the exit code: 0 when all that was said is so, 1 as soon as something is not.
 * @throws the reason of the narrator's signal, once it is aborted.
 */
export async function tellAll(narrator: Narrator, chapters: readonly Chapter[]): Promise<0 | 1> {
  try {
    for (const chapter of chapters) {
      narrator.title(chapter.title);
      await chapter.tell();
    }
    return 0;
  } catch (error) {
    narrator.failure(error);
    return 1;
  }
}

/** A number of bytes as people read it: `2.4 MB`. */
export function size(bytes: number): string {
  const units = ['bytes', 'kB', 'MB', 'GB'];
  let [amount, unit] = [bytes, 0];
  while (amount >= 1000 && unit < units.length - 1) {
    amount /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? amount : amount.toFixed(1)} ${units[unit]}`;
}

/** A number as people read it, whatever their locale: `2,500`. */
export function count(number: number): string {
  return number.toLocaleString('en-US');
}

function shown(value: unknown): string {
  return typeof value === 'string'
    ? value
    : inspect(value, { depth: 5, breakLength: Number.POSITIVE_INFINITY });
}

/** Breaks at spaces; what is longer than a line (a path) is left whole, to be copied. */
function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(/\s+/)) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line];
}
