/** Settling many rows at a time, two writes beside one another. What a write does meanwhile is held up by hand; it is real. */
import { expect, it } from 'vitest';
import type { Outbox } from '../../src/outbox/outbox.ts';
import type { ClaimedRow, Settlement } from '../../src/outbox/rows.ts';
import { Settler } from '../../src/reconciler/settler.ts';
import { fileDatabase, fill, openOutbox, STORE, states } from '../outbox/rows.ts';
import { until } from '../support/reconciler.ts';

const db = fileDatabase();

/** A settler whose writes of done rows wait until each is let go. */
async function setup(count: number) {
  const { outbox } = openOutbox(db.url);
  await fill(db, count);
  const lease = { lease: 3_600_000, history: 86_400_000 };
  const worker = await outbox.register({
    name: 'w',
    version: 'test',
    stores: [STORE],
    roots: [`${STORE}/`],
    ...lease,
  });
  const { rows } = await outbox.claim(worker, new Map([[STORE, count]]));
  const writes: { rows: number; go: (error?: Error) => void }[] = [];
  const held: Pick<Outbox, 'settleDone' | 'settleBack' | 'settleDead'> = {
    settleDone: async (name, keep, settlements) => {
      await new Promise<void>((resolve, reject) =>
        writes.push({
          rows: settlements.length,
          go: error => (error === undefined ? resolve() : reject(error)),
        }),
      );
      return await outbox.settleDone(name, keep, settlements);
    },
    settleBack: settlements => outbox.settleBack(settlements),
    settleDead: (name, settlements) => outbox.settleDead(name, settlements),
  };
  const told: { id: string; held: boolean }[] = [];
  const refused: string[] = [];
  const troubles: unknown[] = [];
  const settler = new Settler({
    outbox: held,
    worker: 'w',
    history: true,
    onSettled: ({ row }, stillHeld) => told.push({ id: row.id, held: stillHeld }),
    onRefused: ({ row }) => refused.push(row.id),
    onTrouble: (_, error) => troubles.push(error),
  });
  /** Lets all writes go, those that are begun meanwhile as well. */
  const flush = async () => {
    let over = false;
    const end = settler.flush().finally(() => {
      over = true;
    });
    await until(() => {
      for (const write of writes.splice(0)) write.go();
      return over;
    }, 'all to be settled');
    await end;
  };
  const add = (...some: ClaimedRow[]) => {
    for (const row of some) settler.add(done(row));
  };
  return { rows, settler, writes, told, refused, troubles, flush, add };
}

const done = (row: ClaimedRow, outcome = 'deleted'): Settlement => ({
  kind: 'done',
  row,
  outcome: outcome as 'deleted',
  objects: 1,
  bytes: null,
  note: null,
});

it('writes twice at a time and no more often; each row is settled and told of once', async () => {
  const { rows, writes, told, flush, add } = await setup(5_000);
  add(...rows);
  expect(writes.map(write => write.rows)).toEqual([1_000, 1_000]);
  await flush();
  await until(() => told.length === 5_000, 'all to be told');
  expect(told.every(each => each.held)).toBe(true);
  expect(new Set(told.map(each => each.id)).size).toBe(5_000);
  expect(await states(db)).toMatchObject({ running: 0, done: 5_000 });
});

it('few rows wait for the write that is under way, but not for one that hangs', async () => {
  const { rows, writes, told, flush, add } = await setup(1_003);
  const [a, b, c, ...many] = rows as [ClaimedRow, ClaimedRow, ClaimedRow, ...ClaimedRow[]];
  add(...many);
  add(a);
  writes[0]?.go();
  await until(() => writes.length === 2, 'the one that waited');
  expect(writes[1]?.rows).toBe(1);
  add(b);
  await until(() => writes.length === 3, 'the one that would wait for ever');
  expect(writes[2]?.rows).toBe(1);
  add(c);
  await flush();
  expect(told).toHaveLength(1_003);
  expect(await states(db)).toMatchObject({ running: 0, done: 1_003 });
});

it('forgets what both writes were to settle, and goes on with what comes next', async () => {
  const { rows, settler, writes, told, troubles, flush, add } = await setup(2_001);
  const [next, ...many] = rows as [ClaimedRow, ...ClaimedRow[]];
  add(...many);
  for (const write of writes.splice(0)) write.go(new Error('the connection is gone'));
  await until(() => troubles.length === 2, 'both to wait for another try');
  settler.forget();
  await settler.flush();
  expect(told).toEqual([]);
  add(next);
  await flush();
  expect(told).toEqual([{ id: next.id, held: true }]);
  expect(await states(db)).toMatchObject({ running: 2_000, done: 1 });
});

it('a row that the database refuses holds up neither its own write nor the other', async () => {
  const { rows, settler, told, refused, flush } = await setup(2_000);
  for (const [i, row] of rows.entries()) settler.add(done(row, i === 700 ? 'nonsense' : 'deleted'));
  await flush();
  await until(() => told.length === 1_999, 'the others');
  expect(refused).toEqual([rows[700]?.id]);
  expect(await states(db)).toMatchObject({ running: 1, done: 1_999 });
});
