/** What the guard should say, worked out without SQL: rows are rendered and compared as the contract has it. */

export interface Row {
  readonly k: number;
  readonly a: string | null;
  readonly b: string | null;
  readonly p: string | null;
  readonly q: string | null;
  readonly n: number | null;
  readonly m: string | null;
  readonly u: string | null;
  readonly f: boolean | null;
  readonly e: string | null;
}

/** The table of the oracle's rows; `k` is its key. */
export const TABLE = `
  CREATE TYPE mood AS ENUM ('sad', 'so so', 'a.b');
  CREATE TABLE held (k int PRIMARY KEY, a text, b varchar(60), p text, q text, n bigint, m numeric, u uuid, f boolean, e mood);`;

/** What a row holds; undefined: a value is NULL. */
export function render(template: string, row: Row): string | undefined {
  let whole = true;
  const text = template.replace(/\{\+?(\w+)\}/g, (_, name: keyof Row) => {
    const value = row[name];
    if (value === null) whole = false;
    return String(value);
  });
  return whole ? text : undefined;
}

/** For file: host and trailing slash make no difference. */
function form(target: string): string {
  if (!target.startsWith('file://')) return target;
  return `file://${target.slice(target.indexOf('/', 7)).replace(/\/$/, '')}`;
}

/** What is below begins with this; undefined where nothing can be below. */
function trunk(target: string): string | undefined {
  if (target.startsWith('file://')) return `${form(target)}/`;
  return target.endsWith('/') ? target : undefined;
}

export function expectedVerdict(held: readonly string[], target: string): 'kept' | 'blocked' | 'go' {
  if (held.some(h => form(h) === form(target))) return 'kept';
  const below = trunk(target);
  return below !== undefined && held.some(h => form(h).startsWith(below)) ? 'blocked' : 'go';
}
