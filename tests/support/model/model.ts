/**
 * The model: random transactions over tables that hold files, with daemons running. At the end the files are those that live
 * rows hold, exactly, and none that was held was ever missing at a COMMIT. The suite plays a hundred runs, `bench/model.ts`
 * thousands.
 */
import { setTimeout as pause } from 'node:timers/promises';
import pLimit from 'p-limit';
import pg from 'pg';
import { createFileHandler } from '../../../src/handlers/file/index.ts';
import { createReconciler, type Reconciler } from '../../../src/reconciler/reconciler.ts';
import { insert, Planner } from './ops.ts';
import type { Script } from './script.ts';
import { type Coverage, Session } from './session.ts';
import { heldBy, READ_ALL, type Row, TABLES, WITHOUT_WAITING, watches } from './tables.ts';
import { playTransaction, reserve } from './transaction.ts';
import { Turns } from './turns.ts';
import { World } from './world.ts';

export interface Model {
  /** What the runs did and what became of it, by kind. */
  readonly coverage: Coverage;
  startDaemon(): Promise<void>;
  /** @throws when what is stored is not what is held. */
  run(script: Script): Promise<void>;
  /** Changes something in the database. */
  alter(sql: string): Promise<void>;
  close(): Promise<void>;
}

/** Longest to wait for the outbox to be empty, in ms: a hundred times what it takes. */
const PATIENCE = 20_000;

const EVERYTHING = 'parent, child, loose, badge, doc, part';
const DELETE_ALL = EVERYTHING.split(', ')
  .map(table => `DELETE FROM ${table};`)
  .join(' ');

const FINISH: Record<Script['finish'], string> = {
  delete: DELETE_ALL,
  truncate: `TRUNCATE ${EVERYTHING}`,
  repath: `UPDATE child SET path = NULL; UPDATE loose SET path = NULL; UPDATE badge SET owner = NULL;
    UPDATE doc SET deleted_at = now() WHERE deleted_at IS NULL; UPDATE part SET a = NULL; DELETE FROM parent`,
};

/** Makes the tables and their watches in a migrated database, for files in a directory. */
export async function openModel(url: string, directory: string): Promise<Model> {
  const control = new pg.Client({ connectionString: url });
  control.on('error', () => {});
  await control.connect();
  await control.query(TABLES);
  await control.query(watches(directory));
  // Deadlocks are part of the game.
  await control.query(
    `ALTER DATABASE ${control.escapeIdentifier(control.database ?? '')} SET deadlock_timeout = '20ms'`,
  );

  const world = new World(directory);
  const coverage: Coverage = new Map();
  const daemons: Reconciler[] = [];
  const done = new Set<string>();
  const waiting = new Map<string, () => void>();
  let ring = () => {};

  const read = async () => {
    world.committed((await control.query<Row>(READ_ALL)).rows);
  };
  const readUnlessLocked = async () => {
    try {
      // Two statements in one query have two results.
      const results = await control.query(`${WITHOUT_WAITING} ${READ_ALL}`);
      world.committed((results as unknown as pg.QueryResult<Row>[])[1]?.rows);
    } catch (error) {
      if (!(error instanceof pg.DatabaseError) || error.code !== '55P03') throw error;
      world.committed(undefined);
      count('a COMMIT that could not be looked at');
    }
  };
  const count = (what: string, times = 1) => coverage.set(what, (coverage.get(what) ?? 0) + times);
  const commits = pLimit(1);
  const sessions = [0, 1].map(client => new Session({ url, client, world, commits, read: readUnlessLocked }));
  await Promise.all(sessions.map(session => session.connect()));
  const [first] = sessions as [Session, Session];

  /** An hour goes by: what was delayed is due. As for a row that is written, its time is taken after the transaction has its id. */
  const anHourLater = () =>
    control.query(`
      SELECT pg_current_xact_id();
      UPDATE afterdelete.pending_file_cleanup SET run_at = clock_timestamp() WHERE due_at > clock_timestamp() AND put_back IS NULL;
      NOTIFY afterdelete`);

  /** Waits until nothing is left in the outbox but trees that wait; returns those. */
  const settled = async (): Promise<Set<string>> => {
    const end = performance.now() + PATIENCE;
    for (;;) {
      const rung = new Promise<void>(resolve => {
        ring = resolve;
      });
      const { rows } = await control.query<{
        id: string;
        target: string;
        state: string;
        last_error: string | null;
      }>(`
        SELECT id::text, target, coalesce(put_back, 'pending') AS state, last_error FROM afterdelete.pending_file_cleanup
        UNION ALL SELECT id::text, target, 'running', last_error FROM afterdelete.running_file_cleanup
        UNION ALL SELECT id::text, target, 'dead', last_error FROM afterdelete.dead_file_cleanup`);
      const left = rows.filter(row => row.state !== 'blocked' || !world.isBlocked(row.target));
      if (left.length === 0) return new Set(rows.map(row => row.target));
      const described = () =>
        left.map(row => `${row.state} ${row.target}: ${row.last_error ?? 'no error'}`).join('\n');
      if (left.some(row => row.state === 'dead')) throw new Error(`there are dead rows:\n${described()}`);
      if (performance.now() > end)
        throw new Error(`the outbox is not empty after ${PATIENCE / 1000} s:\n${described()}`);
      const free = left.filter(row => row.state === 'blocked').map(row => row.id);
      if (free.length > 0)
        await control.query('SELECT afterdelete.retry(id) FROM unnest($1::bigint[]) AS id', [free]);
      // Whatever has become of the row, a daemon tells; the rest is for what tells nobody.
      await Promise.race([rung, pause(20)]);
    }
  };

  /** The outbox is empty: looks at the disk and at what was done. */
  const compare = async () => {
    const blocked = await settled();
    world.check('at the end');
    world.compare(blocked);
    return blocked;
  };

  const clear = async () => {
    await control.query(`
      SET session_replication_role = replica; ${DELETE_ALL} RESET session_replication_role;
      DELETE FROM afterdelete.pending_file_cleanup; DELETE FROM afterdelete.dead_file_cleanup`);
    // What a run that failed has left in the daemons' hands.
    world.committed([]);
    await settled();
    await control.query('DELETE FROM afterdelete.done_file_cleanup');
    done.clear();
    world.clear();
  };

  const populate = async () => {
    const { rows, uploads } = new Planner(world).population();
    const ids = await reserve(first, uploads, '1 hour', world);
    await first.begin('READ COMMITTED', 'population');
    for (const table of new Set(rows.map(row => row.table)))
      await insert(
        first,
        rows.filter(row => row.table === table),
      );
    await first.query('SELECT afterdelete.confirm(id) FROM unnest($1::bigint[]) AS id', [ids]);
    await first.query('UPDATE doc SET deleted_at = now() WHERE id = (SELECT min(id::text)::uuid FROM doc)');
    await first.commit();
  };

  const ended = async (id: string) => {
    if (done.has(id)) return;
    const end = new Promise<true>(resolve => waiting.set(id, () => resolve(true)));
    if (!(await Promise.race([end, pause(PATIENCE, false, { ref: false })])))
      throw new Error(`reservation ${id} is due, and not done after ${PATIENCE / 1000} s`);
  };

  const run = async (script: Script) => {
    await clear();
    for (const session of sessions) session.join(undefined, coverage);
    await populate();
    const turns = new Turns(sessions.length, script.order);
    const undone = new Set<string>();
    const ends = await Promise.allSettled(
      sessions.map(async (session, client) => {
        session.join(turns, coverage);
        try {
          for (const [i, transaction] of (script.clients[client] ?? []).entries())
            await playTransaction(session, transaction, `client ${client}, transaction ${i}`, {
              world,
              ended,
              undone,
            });
        } finally {
          session.leave();
        }
      }),
    );
    const failed = ends.find(end => end.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
    for (const session of sessions) session.join(undefined, coverage);

    // A client that has crashed may not have ended yet: this waits for what it has locked.
    await read();
    await anHourLater();
    const blocked = await compare();
    count('blocked', blocked.size);

    const ending = world.rows.flatMap(row => heldBy(row, directory)).sort();
    await first.begin('READ COMMITTED', 'finish');
    await first.query(FINISH[script.finish]);
    await first.commit();
    await read();
    await anHourLater();
    if ((await compare()).size > 0 || world.held.size > 0)
      throw new Error('something is held after the end of all holds');
    await audit(ending, undone);
  };

  /** What the audit trail tells: `ending` is what the last transaction let go, each as often as it was held. */
  const audit = async (ending: readonly string[], undone: ReadonlySet<string>) => {
    const { rows } = await control.query<{ outcome: string; actor: string; target: string }>(
      'SELECT outcome, actor, target FROM afterdelete.done_file_cleanup',
    );
    for (const { outcome } of rows) count(outcome);
    const wrong = rows.find(({ actor }) => undone.has(actor));
    if (wrong !== undefined)
      throw new Error(`${wrong.actor} was rolled back, and has written ${wrong.target}`);
    const written = rows.filter(({ actor }) => actor === 'finish').map(({ target }) => target);
    if (written.sort().join('\n') !== ending.join('\n'))
      throw new Error(
        `expected one cleanup for each hold that ended: ${ending.join(', ')}; there were ${written.join(', ')}`,
      );
  };

  return {
    coverage,
    async startDaemon() {
      const daemon = createReconciler({
        databaseUrl: url,
        roots: [`file://${directory}/`],
        handlers: [createFileHandler()],
        retryBase: 1,
        retryCap: 10,
      });
      daemons.push(daemon);
      daemon.events.on('cleanup_done', ({ id }) => {
        done.add(id);
        waiting.get(id)?.();
        waiting.delete(id);
        ring();
      });
      for (const event of ['cleanup_blocked', 'cleanup_retry', 'cleanup_yielded', 'cleanup_dead'] as const)
        daemon.events.on(event, () => ring());
      await daemon.start();
    },
    run,
    async alter(sql) {
      await control.query(sql);
    },
    async close() {
      await Promise.all(daemons.map(daemon => daemon.stop()));
      await Promise.all(
        [control, ...sessions].map(client => ('close' in client ? client.close() : client.end())),
      );
    },
  };
}
