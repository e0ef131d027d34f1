/** One transaction from its uploads to its end. */
import pg from 'pg';
import { enqueue } from '../../../src/outbox/enqueue.ts';
import { type Plan, Planner } from './ops.ts';
import type { Op, Step, Transaction } from './script.ts';
import type { Session } from './session.ts';
import type { Upload, World } from './world.ts';

/** What the database may answer to a transaction that is beaten by another, or whose reservation has fallen due. */
const REFUSALS: Readonly<Record<string, string>> = {
  '40001': 'serialization failure',
  '40P01': 'deadlock',
  '23503': 'the owner was gone',
  '23505': 'the row was there already',
  '55000': 'the reservation was past due',
};

type Item = Plan | { readonly items: readonly Item[]; readonly rollback: boolean };

export interface Stage {
  readonly world: World;
  /** Resolves when a cleanup has ended. */
  readonly ended: (id: string) => Promise<void>;
  /** The actors of transactions that were not committed. */
  readonly undone: Set<string>;
}

export async function playTransaction(
  session: Session,
  transaction: Transaction,
  actor: string,
  { world, ended, undone }: Stage,
): Promise<void> {
  const { isolation, end, reservation } = transaction;
  const planner = new Planner(world);
  const uploads: Upload[] = [];
  const plan = (steps: readonly Step[]): Item[] =>
    steps.flatMap((step): Item[] => {
      if (step.kind === 'savepoint') return [{ items: plan(step.steps), rollback: step.rollback }];
      const planned = planner.plan(isolation === 'READ COMMITTED' ? step : withoutTruncate(step));
      uploads.push(...(planned?.uploads ?? []));
      return planned === undefined ? [] : [planned];
    });
  const items = plan(transaction.steps);

  const ids = await reserve(session, uploads, reservation === 'timely' ? '1 hour' : 0, world);
  if (end === 'crash after upload') {
    if (ids.length > 0) session.saw('crash after upload');
    return;
  }
  if (reservation === 'expired') await session.outside(Promise.all(ids.map(ended)));

  undone.add(actor);
  await session.begin(isolation, actor);
  try {
    await play(session, items, 1);
    if (end === 'commit') {
      await session.commit();
      undone.delete(actor);
      return;
    }
    session.saw(end === 'crash' ? 'crash in a transaction' : 'rollback');
    if (end === 'crash') await session.crash();
    else await session.rollback();
  } catch (error) {
    // Whatever it is: what it has locked, the other client may wait for.
    await session.rollback();
    session.saw(refusal(error));
  }
}

/** Writes the reservations of uploads, and uploads; returns their ids. */
export async function reserve(
  session: Session,
  uploads: readonly Upload[],
  delay: string | number,
  world: World,
): Promise<string[]> {
  if (uploads.length === 0) return [];
  // One that is due at once must not be committed before the upload, or the upload comes after its clean-up.
  if (delay === 0) await session.query('BEGIN');
  const ids = await enqueue(
    { query: (text, values) => session.query(text, values) },
    uploads.map(upload => upload.target),
    { delay, source: 'reservation' },
  );
  for (const [i, upload] of uploads.entries()) {
    world.upload(upload);
    session.reserved(upload, ids[i] as string);
  }
  if (delay === 0) await session.query('COMMIT');
  return ids;
}

async function play(session: Session, items: readonly Item[], depth: number): Promise<void> {
  for (const item of items) {
    if ('run' in item) {
      await item.run(session);
      continue;
    }
    const savepoint = `s${depth}`;
    const mark = session.mark;
    await session.query(`SAVEPOINT ${savepoint}`);
    let back = item.rollback ? 'rollback to a savepoint' : undefined;
    try {
      await play(session, item.items, depth + 1);
    } catch (error) {
      session.saw(refusal(error));
      back = 'rollback to a savepoint after an error';
    }
    if (back !== undefined) {
      if (session.mark > mark) session.saw(back);
      session.forgetSince(mark);
      await session.query(`ROLLBACK TO SAVEPOINT ${savepoint}`);
    } else if (session.mark > mark) session.did('savepoint');
    await session.query(`RELEASE SAVEPOINT ${savepoint}`);
  }
}

/** What was refused; anything else is no part of the game, and thrown again. */
function refusal(error: unknown): string {
  const refused = error instanceof pg.DatabaseError ? REFUSALS[error.code ?? ''] : undefined;
  if (refused === undefined) throw error;
  return refused;
}

/** A TRUNCATE cannot know all that it takes in these isolation levels, and says so by a dead row. */
function withoutTruncate(op: Op): Op {
  if (op.kind === 'migrate') return { ...op, by: 'delete' };
  if (op.kind !== 'truncate') return op;
  return {
    kind: 'remove',
    table: op.relation.startsWith('parent') ? 'parent' : 'loose',
    pick: 0,
    how: 'all',
  };
}
