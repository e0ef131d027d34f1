/** What is wrong with a configuration, in words. */
import { redact } from '../redact.ts';
import { quoteTarget } from '../target.ts';

/** A configuration that cannot be used. The message has one line a problem, and every problem. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(problems.join('\n'));
    this.problems = problems;
  }
}

/** The line for one setting, named as the user wrote it. */
export function problem(name: string, expected: string, got: string): string {
  return `${name}: expected ${expected}, got ${got}`;
}

/** A value as it may stand in a message: on one line, without passwords. */
export function show(value: unknown): string {
  if (value === undefined || value === null) return 'nothing';
  if (typeof value === 'string') return quoteTarget(redact(value));
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'object' ? 'a mapping' : String(value);
}

/** The one of several names that somebody most likely meant. */
export function closest(name: string, known: readonly string[]): string {
  const bare = (text: string) =>
    text
      .toLowerCase()
      .replace(/^afterdelete_/, '')
      .replace(/[_-]/g, '');
  const [first = ''] = known
    .map(candidate => ({ candidate, distance: editDistance(bare(name), bare(candidate)) }))
    .sort((a, b) => a.distance - b.distance)
    .map(({ candidate }) => candidate);
  return first;
}

/** Levenshtein's: the fewest letters to insert, remove or replace. */
function editDistance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, i) => i);
  for (const [i, letter] of [...from].entries()) {
    const next = [i + 1];
    for (let j = 1; j <= to.length; j++) {
      const replaced = at(row, j - 1) + (letter === to[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, at(row, j) + 1, at(next, j - 1) + 1));
    }
    row = next;
  }
  return at(row, to.length);
}

function at(row: readonly number[], index: number): number {
  return row[index] ?? Number.POSITIVE_INFINITY;
}
