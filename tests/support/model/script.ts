/** What a run of the model does, as fast-check makes it up. Numbers called pick choose among what there is by then. */
import fc from 'fast-check';
import { REGIONS, type TableName } from './tables.ts';

/** One thing that a transaction does. */
export type Op =
  | { kind: 'insert'; table: TableName; owner: number; place: number }
  /** A new path: by UPDATE, MERGE or INSERT … ON CONFLICT DO UPDATE; `none`: NULL, so that nothing is held. */
  | { kind: 'repath'; pick: number; place: number; how: 'update' | 'merge' | 'upsert' | 'none' }
  /** Two rows exchange their paths: in one UPDATE, in two, or in three by way of NULL. */
  | { kind: 'swap'; table: 'child' | 'loose' | 'doc' | 'part'; x: number; y: number; statements: 1 | 2 | 3 }
  /** One more row that holds the same. */
  | { kind: 'share'; pick: number; place: number }
  /** A row goes over to the other of `child` and `loose`, with what it holds. */
  | { kind: 'transfer'; pick: number; insertFirst: boolean }
  /** All rows of one go over to the other. */
  | { kind: 'migrate'; from: 'child' | 'loose'; by: 'truncate' | 'delete' }
  /** To another row of `parent`: the path stays, but a badge's is made of it. */
  | { kind: 'adopt'; table: 'child' | 'loose' | 'badge'; pick: number; owner: number }
  | { kind: 'softDelete'; pick: number }
  | { kind: 'restore'; pick: number }
  /** To another partition. */
  | { kind: 'region'; pick: number; place: number }
  | { kind: 'unrelated'; table: TableName }
  | { kind: 'remove'; table: TableName; pick: number; how: 'one' | 'some' | 'all' | 'merge' }
  /** From a partition, by its own name. */
  | { kind: 'removeFromLeaf'; pick: number }
  | { kind: 'truncate'; relation: string };

export type Step = Op | { kind: 'savepoint'; steps: readonly Step[]; rollback: boolean };

export interface Transaction {
  readonly steps: readonly Step[];
  readonly isolation: 'READ COMMITTED' | 'REPEATABLE READ' | 'SERIALIZABLE';
  /** Under which reservation files are uploaded: in time, due as soon as they are there, or past due. */
  readonly reservation: 'timely' | 'due' | 'expired';
  readonly end: 'commit' | 'rollback' | 'crash' | 'crash after upload';
}

export interface Script {
  /** What the two clients do. */
  readonly clients: readonly (readonly Transaction[])[];
  /** Whose turn it is, statement by statement. */
  readonly order: readonly number[];
  /** How all holds end at the end. */
  readonly finish: 'delete' | 'truncate' | 'repath';
}

const pick = fc.nat(999);

const weighted = <T>(weights: readonly (readonly [number, T])[]) =>
  fc.oneof(...weights.map(([weight, value]) => ({ weight, arbitrary: fc.constant(value) })));

const table = weighted<TableName>([
  [4, 'parent'],
  [3, 'child'],
  [3, 'loose'],
  [2, 'badge'],
  [2, 'doc'],
  [3, 'part'],
]);

function op(kind: Op['kind'], fields: Record<string, fc.Arbitrary<unknown>>): fc.Arbitrary<Op> {
  return fc.record({ kind: fc.constant(kind), ...fields }) as unknown as fc.Arbitrary<Op>;
}

const ops: readonly (readonly [number, fc.Arbitrary<Op>])[] = [
  [6, op('insert', { table, owner: pick, place: pick })],
  [
    10,
    op('repath', { pick, place: pick, how: fc.constantFrom('update', 'merge', 'upsert', 'upsert', 'none') }),
  ],
  [
    6,
    op('swap', {
      table: fc.constantFrom('child', 'loose', 'doc', 'part'),
      x: pick,
      y: pick,
      statements: fc.constantFrom(1, 1, 2, 3),
    }),
  ],
  [8, op('share', { pick, place: pick })],
  [3, op('transfer', { pick, insertFirst: fc.boolean() })],
  [2, op('migrate', { from: fc.constantFrom('child', 'loose'), by: fc.constantFrom('truncate', 'delete') })],
  [4, op('adopt', { table: fc.constantFrom('child', 'loose', 'badge'), pick, owner: pick })],
  [3, op('softDelete', { pick })],
  [3, op('restore', { pick })],
  [3, op('region', { pick, place: pick })],
  [2, op('unrelated', { table })],
  [
    10,
    op('remove', {
      table: fc.oneof(table, fc.constant('parent')),
      pick,
      how: weighted([
        [6, 'one'],
        [3, 'some'],
        [4, 'merge'],
        [1, 'all'],
      ]),
    }),
  ],
  [3, op('removeFromLeaf', { pick })],
  [2, op('truncate', { relation: fc.constantFrom('parent CASCADE', 'child CASCADE', 'child CASCADE') })],
  [
    2,
    op('truncate', {
      relation: fc.constantFrom(
        'loose',
        'badge',
        'doc',
        'part',
        ...Array.from({ length: REGIONS }, (_, i) => `part_${i}`),
      ),
    }),
  ],
];

const anyOp = fc.oneof(...ops.map(([weight, arbitrary]) => ({ weight, arbitrary })));

const step: fc.Arbitrary<Step> = fc.letrec<{ step: Step; savepoint: Step }>(tie => ({
  step: fc.oneof(
    { maxDepth: 2 },
    { weight: 6, arbitrary: anyOp },
    { weight: 1, arbitrary: tie('savepoint') },
  ),
  savepoint: fc.record({
    kind: fc.constant('savepoint' as const),
    steps: fc.array(tie('step'), { minLength: 1, maxLength: 3, size: 'max' }),
    rollback: fc.boolean(),
  }),
})).step;

const transaction: fc.Arbitrary<Transaction> = fc.record({
  steps: fc.array(step, { minLength: 1, maxLength: 6, size: 'max' }),
  isolation: weighted<Transaction['isolation']>([
    [8, 'READ COMMITTED'],
    [1, 'REPEATABLE READ'],
    [1, 'SERIALIZABLE'],
  ]),
  reservation: weighted<Transaction['reservation']>([
    [6, 'timely'],
    [2, 'due'],
    [1, 'expired'],
  ]),
  end: weighted<Transaction['end']>([
    [12, 'commit'],
    [2, 'rollback'],
    [1, 'crash'],
    [2, 'crash after upload'],
  ]),
});

export const script: fc.Arbitrary<Script> = fc.record({
  clients: fc.tuple(
    fc.array(transaction, { minLength: 1, maxLength: 3, size: 'max' }),
    fc.array(transaction, { maxLength: 3, size: 'max' }),
  ),
  order: fc.array(fc.nat(1), { minLength: 1, maxLength: 60, size: 'max' }),
  finish: fc.constantFrom('delete', 'truncate', 'repath'),
});
