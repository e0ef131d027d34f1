/**
 * The tables of the model and their watches. What a row holds is worked out here, in TypeScript; the watches say the same
 * in SQL, and nothing else of ours is asked.
 */

/** Rows are numbered from one counter, so that none of one table has the number of one of another. */
export type TableName = 'parent' | 'child' | 'loose' | 'badge' | 'doc' | 'part';

/** A row of any of the tables; what a table does not have is null. */
export interface Row {
  readonly table: TableName;
  readonly n: number;
  /** The row of `parent` that it belongs to; of a row of `part`: the row of `child`. */
  readonly owner: number | null;
  readonly path: string | null;
  readonly a: string | null;
  readonly b: string | null;
  readonly region: number | null;
  readonly deleted: boolean;
}

/** Partitions of `part`; the last is attached when the watch has been declared. */
export const REGIONS = 3;

/** Tables whose rows hold what their column `path` says. */
export const WITH_PATH = ['child', 'loose', 'doc'] as const satisfies readonly TableName[];

/** `part` comes to an end with `child`, and that with `parent`: a cascade of two steps. */
export const TABLES = `
  CREATE TABLE parent (id int PRIMARY KEY, note text);
  CREATE TABLE child (id int PRIMARY KEY, owner int REFERENCES parent ON DELETE CASCADE, path text, note text);
  CREATE TABLE loose (id int PRIMARY KEY, owner int REFERENCES parent ON DELETE SET NULL, path text, note text);
  CREATE TABLE badge (id int PRIMARY KEY, owner int REFERENCES parent ON DELETE SET NULL, note text);
  CREATE TABLE doc (id uuid PRIMARY KEY, owner int REFERENCES parent ON DELETE CASCADE, path text, deleted_at timestamptz, note text);
  CREATE TABLE part (id int, region int, owner int REFERENCES child ON DELETE CASCADE, a text, b text, note text,
                     PRIMARY KEY (id, region)) PARTITION BY LIST (region);
  CREATE TABLE part_0 PARTITION OF part FOR VALUES IN (0);
  CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
  CREATE INDEX ON child (path);
  CREATE INDEX ON doc (path text_pattern_ops)`;

/**
 * The watches, for files below a directory. A partition comes later: it is captured as it is, but for a TRUNCATE of itself
 * alone, for which daemons make the trigger with their heartbeat. Soft-deleted rows of `doc` can be brought back for an hour.
 */
export function watches(directory: string): string {
  const below = (template: string) => `'file://${directory}/${template}'`;
  return `
    SELECT afterdelete.watch('parent', ${below('t/{id}/')});
    SELECT afterdelete.watch('child', 'file://{+path}', prune_parents => 2);
    SELECT afterdelete.watch('loose', 'file://{+path}', prune_parents => 1);
    SELECT afterdelete.watch('badge', ${below('t/{owner}/badge-{id}')});
    SELECT afterdelete.watch('doc', 'file://{+path}', condition => 'deleted_at IS NULL', delay => '1 hour');
    SELECT afterdelete.watch('doc', ${below('d/{id}.png')}, condition => 'deleted_at IS NULL', delay => '1 hour');
    SELECT afterdelete.watch('part', ${below('p/{a}-{b}')});
    CREATE TABLE part_2 (LIKE part INCLUDING ALL);
    ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES IN (2);
    SELECT afterdelete.extend_watches()`;
}

/** The targets that a row holds. */
export function heldBy(row: Row, directory: string): string[] {
  const { table, n, owner, path, a, b, deleted } = row;
  switch (table) {
    case 'parent':
      return [tree(directory, n)];
    case 'child':
    case 'loose':
      return path === null ? [] : [`file://${path}`];
    case 'badge':
      return owner === null ? [] : [badge(directory, owner, n)];
    case 'doc':
      if (deleted) return [];
      return [`file://${directory}/d/${keyOf('doc', n)}.png`, ...(path === null ? [] : [`file://${path}`])];
    case 'part':
      return a === null || b === null ? [] : [`file://${directory}/p/${a}-${b}`];
  }
}

export const tree = (directory: string, n: number) => `file://${directory}/t/${n}/`;
export const badge = (directory: string, owner: number, n: number) =>
  `file://${directory}/t/${owner}/badge-${n}`;

/** The primary key of a row, as a parameter. */
export function keyOf(table: TableName, n: number): number | string {
  return table === 'doc' ? `00000000-0000-4000-8000-${String(n).padStart(12, '0')}` : n;
}

/** Reads all rows as `Row`s. */
export const READ_ALL = `
  SELECT 'parent' AS "table", id AS n, NULL::int AS owner, NULL::text AS path, NULL::text AS a, NULL::text AS b, NULL::int AS region, false AS deleted FROM parent
  UNION ALL SELECT 'child', id, owner, path, NULL, NULL, NULL, false FROM child
  UNION ALL SELECT 'loose', id, owner, path, NULL, NULL, NULL, false FROM loose
  UNION ALL SELECT 'badge', id, owner, NULL, NULL, NULL, NULL, false FROM badge
  UNION ALL SELECT 'doc', right(id::text, 12)::int, owner, path, NULL, NULL, NULL, deleted_at IS NOT NULL FROM doc
  UNION ALL SELECT 'part', id, owner, NULL, a, b, region, false FROM part
  ORDER BY 1, 2`;

/**
 * Comes before it in one query, which then fails at once, with 55P03, while a TRUNCATE has not committed: whoever waited for it
 * would hold up the one who is to commit it.
 */
export const WITHOUT_WAITING =
  'LOCK TABLE parent, child, loose, badge, doc, part IN ACCESS SHARE MODE NOWAIT;';
