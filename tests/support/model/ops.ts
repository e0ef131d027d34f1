/** What each kind of operation is in SQL. It is planned before its transaction begins, because its files are uploaded then. */
import type { Op } from './script.ts';
import type { Session } from './session.ts';
import { badge, heldBy, keyOf, REGIONS, type Row, type TableName, WITH_PATH } from './tables.ts';
import type { Upload, World } from './world.ts';

export interface Plan {
  readonly uploads: readonly Upload[];
  run(session: Session): Promise<void>;
}

/** What stands at the end of a name: nothing that SQL, LIKE or a regular expression reads must matter. */
const NAMES = ['', '.bin', ' %_', '[x].*', "'q'", 'ü', '\\1', '{id}'];

const SHARERS: readonly TableName[] = ['child', 'loose'];
const PATHS: readonly TableName[] = WITH_PATH;
const hasPath = (row: Row) => PATHS.includes(row.table);

/** Plans the operations of one transaction: what one of them inserts, the next may take up. */
export class Planner {
  readonly #world: World;
  readonly #rows: Row[];

  constructor(world: World) {
    this.#world = world;
    this.#rows = [...world.rows];
  }

  /** Undefined when there is no row to do it with. */
  plan(op: Op): Plan | undefined {
    switch (op.kind) {
      case 'insert':
        return this.#insert(this.#row(op.table, op.owner, op.place), op.place);
      case 'repath':
        return this.#repath(op);
      case 'swap':
        return this.#swap(op);
      case 'share':
        return this.#share(op);
      case 'transfer':
        return this.#transfer(op);
      case 'migrate':
        return migrate(op);
      case 'adopt':
        return this.#adopt(op);
      case 'softDelete':
      case 'restore':
        return this.#softDelete(op);
      case 'region':
        return this.#region(op);
      case 'unrelated':
        return {
          uploads: [],
          run: async session => {
            const { rowCount } = await session.query(
              `UPDATE ${op.table} SET note = coalesce(note, '') || 'x'`,
            );
            if (rowCount) session.did('unrelated update');
          },
        };
      case 'remove':
        return this.#remove(op);
      case 'removeFromLeaf':
        return this.#removeFromLeaf(op);
      case 'truncate':
        return {
          uploads: [],
          run: async session => {
            await session.query(`TRUNCATE ${op.relation}`);
            session.did(op.relation.endsWith('CASCADE') ? 'truncate cascade' : 'truncate');
          },
        };
    }
  }

  #pick(pick: number, suits: (row: Row) => boolean): Row | undefined {
    const rows = this.#rows.filter(suits);
    return rows[pick % Math.max(1, rows.length)];
  }

  /** Rows to begin with, and the uploads of what they hold. */
  population(): { rows: Row[]; uploads: Upload[] } {
    const counts = { parent: 4, child: 6, loose: 5, badge: 3, doc: 5, part: 6 } satisfies Record<
      TableName,
      number
    >;
    const uploads: Upload[] = [];
    const add = (row: Row, place: number) => {
      this.#rows.push(row);
      uploads.push(...this.#uploads(row, place));
    };
    for (const table of Object.keys(counts) as TableName[])
      for (let i = 1; i <= counts[table]; i++) add(this.#row(table, i, i), i);
    // A directory that is empty but for what another row holds in it: pruning must not take it when that goes.
    const empty = this.#row('parent', 0, 0);
    const child = this.#row('child', 0, 0);
    add(empty, 0);
    add({ ...child, owner: empty.n, path: this.#path('child', child.n, empty.n, 2) }, 0);
    return { rows: this.#rows, uploads };
  }

  /** A row that is new. */
  #row(table: TableName, pick: number, place: number): Row {
    const n = this.#world.number();
    const above = table === 'part' ? 'child' : 'parent';
    const owner =
      table === 'parent' || pick % 4 === 0 ? null : (this.#pick(pick, row => row.table === above)?.n ?? null);
    const [a, b] = table === 'part' ? split(`${n}-x-y${NAMES[place % NAMES.length]}`, place) : [null, null];
    return {
      table,
      n,
      owner,
      path: PATHS.includes(table) ? this.#path(table, n, owner, place) : null,
      a,
      b,
      region: table === 'part' ? place % REGIONS : null,
      deleted: false,
    };
  }

  /** A path that is new: below the tree of its owner, so that it holds that up, or beside all trees. */
  #path(table: TableName, n: number, owner: number | null, place: number): string {
    const { directory } = this.#world;
    const name = `${n}-${this.#world.number()}${NAMES[place % NAMES.length]}`;
    if (table === 'doc') return `${directory}/s/${name}`;
    if (owner === null || place % 3 === 0) return `${directory}/f/${name}`;
    return `${directory}/t/${owner}/${place % 2 === 0 ? 'deep/' : ''}${name}`;
  }

  /** The uploads of what it holds that is new. */
  #uploads(row: Row, place: number): Upload[] {
    return heldBy(row, this.#world.directory)
      .map(target => this.#world.plan(target, place))
      .filter(upload => upload !== undefined);
  }

  #insert(row: Row, place: number): Plan {
    const uploads = this.#uploads(row, place);
    this.#rows.push(row);
    return {
      uploads,
      run: async session => {
        await insert(session, [row]);
        await session.confirm(uploads);
        session.did('insert');
      },
    };
  }

  #repath({ pick, place, how }: Op & { kind: 'repath' }): Plan | undefined {
    const row = this.#pick(pick, row => (hasPath(row) || row.table === 'part') && !row.deleted);
    if (row === undefined) return undefined;
    const { table, n, owner } = row;
    const id = keyOf(table, n);
    if (table === 'part') {
      const next = how === 'none' ? { ...row, b: null } : { ...this.#row('part', 0, place), n };
      const uploads = this.#uploads(next, place);
      return statement(uploads, how === 'none' ? 'path to NULL' : 'path of a partitioned row', [
        'UPDATE part SET a = $2, b = $3, region = $4 WHERE id = $1',
        [id, next.a, next.b, next.region],
      ]);
    }
    const path = how === 'none' ? null : this.#path(table, n, owner, place);
    const uploads = this.#uploads({ ...row, path }, place);
    // As it was when the file was uploaded: its tree may have gone with its owner.
    const same = `${table}.owner IS NOT DISTINCT FROM $3::int${table === 'doc' ? ' AND doc.deleted_at IS NULL' : ''}`;
    const key = table === 'doc' ? '$1::uuid' : '$1::int';
    if (how === 'merge')
      return statement(uploads, 'path by MERGE', [
        `MERGE INTO ${table} USING (SELECT ${key} AS id, $2::text AS path) s ON ${table}.id = s.id
           WHEN MATCHED AND ${same} THEN UPDATE SET path = s.path`,
        [id, path, owner],
      ]);
    // A row of doc that is written anew would hold its picture again.
    if (how === 'upsert' && table !== 'doc')
      return statement(uploads, 'path by ON CONFLICT DO UPDATE', [
        `INSERT INTO ${table} (id, path, owner) VALUES ($1, $2, $3::int) ON CONFLICT (id) DO UPDATE SET path = excluded.path WHERE ${same}`,
        [id, path, owner],
      ]);
    return statement(uploads, path === null ? 'path to NULL' : 'path', [
      `UPDATE ${table} SET path = $2 WHERE id = ${key} AND ${same}`,
      [id, path, owner],
    ]);
  }

  #swap({ table, x, y, statements }: Op & { kind: 'swap' }): Plan | undefined {
    const first = this.#pick(x, row => row.table === table && !row.deleted);
    const second = this.#pick(y, row => row.table === table && !row.deleted && row !== first);
    if (first === undefined || second === undefined) return undefined;
    const columns = table === 'part' ? ['a', 'b'] : ['path'];
    const live = table === 'doc' ? ' AND deleted_at IS NULL' : '';
    const ids = [first, second].map(row => keyOf(table, row.n));
    return {
      uploads: [],
      run: async session => {
        // Nobody else may let go of what the other row will hold.
        const { rows } = await session.query<Record<string, unknown>>(
          `SELECT id, ${columns.join(', ')} FROM ${table} WHERE id IN ($1, $2)${live} ORDER BY id FOR UPDATE`,
          ids,
        );
        const [one, other] = rows;
        if (one === undefined || other === undefined) return;
        const assign = async (to: typeof one, from: typeof one | undefined) => {
          const values = columns.map(column => from?.[column] ?? null);
          const sets = columns.map((column, i) => `${column} = $${i + 2}`).join(', ');
          await session.query(`UPDATE ${table} SET ${sets} WHERE id = $1`, [to.id, ...values]);
        };
        if (statements === 1) {
          const sets = columns.map(
            (column, i) =>
              `${column} = CASE id WHEN $1 THEN $${2 * i + 3}::text ELSE $${2 * i + 4}::text END`,
          );
          await session.query(`UPDATE ${table} SET ${sets.join(', ')} WHERE id IN ($1, $2)`, [
            one.id,
            other.id,
            ...columns.flatMap(column => [other[column], one[column]]),
          ]);
        } else {
          if (statements === 3) await assign(one, undefined);
          else await assign(one, other);
          await assign(other, one);
          if (statements === 3) await assign(one, other);
        }
        session.did(statements === 1 ? 'swap in one statement' : 'swap in several statements');
      },
    };
  }

  #share({ pick, place }: Op & { kind: 'share' }): Plan | undefined {
    const row = this.#pick(
      pick,
      row => row.table === 'part' || (hasPath(row) && !row.deleted && row.path !== null),
    );
    if (row === undefined) return undefined;
    const { table } = row;
    // A path of a doc stays an hour, and may be held again meanwhile: only if all who hold it are docs.
    const into = SHARERS.includes(table) ? (SHARERS[place % 2] ?? 'child') : table;
    const fresh = { ...this.#row(into, 0, place), path: null };
    const uploads = into === 'doc' ? this.#uploads(fresh, place) : [];
    this.#rows.push(fresh);
    return {
      uploads,
      run: async session => {
        // Whoever holds it cannot let go of it before this one does, too.
        const { rows } = await session.query<{ path: string | null }>(
          `SELECT ${table === 'part' ? "a || '-' || b AS path" : 'path'} FROM ${table} WHERE id = $1${table === 'doc' ? ' AND deleted_at IS NULL' : ''} FOR SHARE`,
          [keyOf(table, row.n)],
        );
        const path = rows[0]?.path ?? null;
        if (path === null) return;
        const [a, b] = table === 'part' ? split(path, place) : [null, null];
        await insert(session, [{ ...fresh, path: table === 'part' ? null : path, a, b }]);
        await session.confirm(uploads);
        session.did(table === 'part' ? 'share by another pair of values' : 'share');
      },
    };
  }

  #transfer({ pick, insertFirst }: Op & { kind: 'transfer' }): Plan | undefined {
    const row = this.#pick(pick, row => row.table === 'child' || row.table === 'loose');
    if (row === undefined) return undefined;
    const { table: from, n } = row;
    const into = from === 'child' ? 'loose' : 'child';
    return {
      uploads: [],
      run: async session => {
        const { rows } = await session.query<{ path: string | null }>(
          `SELECT path FROM ${from} WHERE id = $1 FOR UPDATE`,
          [n],
        );
        if (rows[0] === undefined) return;
        const write = () =>
          session.query(`INSERT INTO ${into} (id, path) VALUES ($1, $2)`, [n, rows[0]?.path]);
        if (insertFirst) await write();
        await session.query(`DELETE FROM ${from} WHERE id = $1`, [n]);
        if (!insertFirst) await write();
        session.did('transfer to another table');
      },
    };
  }

  #adopt({ table, pick, owner }: Op & { kind: 'adopt' }): Plan | undefined {
    const row = this.#pick(pick, row => row.table === table);
    const to = this.#pick(owner, other => other.table === 'parent' && other.n !== row?.owner);
    if (row === undefined || to === undefined) return undefined;
    const uploads: Upload[] = [];
    if (table === 'badge') {
      const upload = this.#world.plan(badge(this.#world.directory, to.n, row.n), 0);
      if (upload === undefined) return undefined;
      uploads.push(upload);
    }
    return statement(uploads, 'another owner', [
      `UPDATE ${table} SET owner = $2 WHERE id = $1`,
      [row.n, to.n],
    ]);
  }

  #softDelete({ kind, pick }: Op & { kind: 'softDelete' | 'restore' }): Plan | undefined {
    const row = this.#pick(pick, row => row.table === 'doc' && row.deleted === (kind === 'restore'));
    if (row === undefined) return undefined;
    const [now, then] = kind === 'restore' ? ['NULL', 'NOT NULL'] : ['now()', 'NULL'];
    this.#rows[this.#rows.indexOf(row)] = { ...row, deleted: kind !== 'restore' };
    return statement([], kind === 'restore' ? 'restore' : 'soft delete', [
      `UPDATE doc SET deleted_at = ${now} WHERE id = $1 AND deleted_at IS ${then}`,
      [keyOf('doc', row.n)],
    ]);
  }

  #region({ pick, place }: Op & { kind: 'region' }): Plan | undefined {
    const row = this.#pick(pick, row => row.table === 'part' && row.region !== place % REGIONS);
    if (row === undefined) return undefined;
    return statement([], 'to another partition', [
      'UPDATE part SET region = $2 WHERE id = $1',
      [row.n, place % REGIONS],
    ]);
  }

  #removeFromLeaf({ pick }: Op & { kind: 'removeFromLeaf' }): Plan | undefined {
    const row = this.#pick(pick, row => row.table === 'part');
    if (row === undefined) return undefined;
    return statement([], 'delete from a partition', [
      `DELETE FROM part_${row.region} WHERE id = $1`,
      [row.n],
    ]);
  }

  #remove({ table, pick, how }: Op & { kind: 'remove' }): Plan | undefined {
    const rows = this.#rows.filter(row => row.table === table);
    const [row] = rows.splice(pick % Math.max(1, rows.length), 1);
    if (row === undefined) return undefined;
    const gone = how === 'all' ? [row, ...rows] : how === 'some' ? [row, ...rows.slice(0, 2)] : [row];
    const ids = gone.map(({ n }) => keyOf(table, n));
    const type = table === 'doc' ? 'uuid' : 'int';
    return {
      uploads: [],
      run: async session => {
        const { rowCount } =
          how === 'all'
            ? await session.query(`DELETE FROM ${table}`)
            : how === 'merge'
              ? await session.query(
                  `MERGE INTO ${table} USING unnest($1::${type}[]) AS s (gone) ON id = gone WHEN MATCHED THEN DELETE`,
                  [ids],
                )
              : await session.query(`DELETE FROM ${table} WHERE id = ANY ($1::${type}[])`, [ids]);
        if (!rowCount) return;
        session.did(how === 'merge' ? 'delete by MERGE' : 'delete');
        const below = (other: Row) => gone.some(({ n }) => other.owner === n) && other.table !== 'part';
        const ended = table === 'parent' ? this.#rows.filter(below) : [];
        if (ended.some(other => other.table === 'child' || other.table === 'doc')) session.did('cascade');
        if (ended.some(other => other.table === 'loose' || other.table === 'badge')) session.did('set null');
        const children = table === 'child' ? gone : ended.filter(other => other.table === 'child');
        if (this.#rows.some(other => other.table === 'part' && children.some(({ n }) => n === other.owner)))
          session.did('cascade into partitions');
      },
    };
  }
}

/** One statement for one row; what was uploaded for it is confirmed if the row was there. */
function statement(uploads: readonly Upload[], what: string, [text, values]: [string, unknown[]]): Plan {
  return {
    uploads,
    run: async session => {
      const { rowCount } = await session.query(text, values);
      if (rowCount !== 1) return;
      await session.confirm(uploads);
      session.did(what);
    },
  };
}

function migrate({ from, by }: Op & { kind: 'migrate' }): Plan {
  const into = from === 'child' ? 'loose' : 'child';
  return {
    uploads: [],
    run: async session => {
      await session.query(`LOCK TABLE ${from} IN ACCESS EXCLUSIVE MODE`);
      const { rowCount } = await session.query(`INSERT INTO ${into} (id, path) SELECT id, path FROM ${from}`);
      await session.query(by === 'truncate' ? `TRUNCATE ${from} CASCADE` : `DELETE FROM ${from}`);
      if (rowCount) session.did('all rows to another table');
    },
  };
}

const COLUMNS: Record<TableName, string> = {
  parent: 'id',
  child: 'id, owner, path',
  loose: 'id, owner, path',
  badge: 'id, owner',
  doc: 'id, owner, path',
  part: 'id, owner, a, b, region',
};

/** Writes rows of one table in one statement. */
export async function insert(session: Session, rows: readonly Row[]): Promise<void> {
  const table = rows[0]?.table ?? 'parent';
  await session.query(
    `INSERT INTO ${table} (${COLUMNS[table]}) SELECT ${COLUMNS[table]} FROM jsonb_populate_recordset(NULL::${table}, $1)`,
    [JSON.stringify(rows.map(row => ({ ...row, id: keyOf(table, row.n) })))],
  );
}

/** Cuts a name in two at one of its hyphens: the file is the same. */
function split(name: string, place: number): [string, string] {
  const hyphens = [...name.matchAll(/-/g)].map(match => match.index);
  const at = hyphens[place % hyphens.length] ?? 0;
  return [name.slice(0, at), name.slice(at + 1)];
}
