/** The guard against an oracle that knows no SQL: hostile values, templates of every shape, targets near what is held. */
import { describe, expect, it } from 'vitest';
import { openDatabase } from '../../src/outbox/database.ts';
import { Holders } from '../../src/outbox/holders.ts';
import { parseTarget } from '../../src/target.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { random } from '../support/random.ts';
import { expectedVerdict, type Row, render, TABLE } from './oracle.ts';

const TEMPLATES = [
  'file:///data/{a}/',
  'file:///data/{a}',
  'file:///data/{a}/deep/{b}.bin',
  'file:///data/{a}-{b}/x',
  'file:///data/{a}_{n}/x/',
  'file:///data/{n}_{f}/{u}/',
  'file:///data/x{m}',
  'file:///data/{e}/{a}',
  'file://gpu-01/data/{a}/',
  'file://{a}/data/{b}/',
  'file://{+p}',
  'file://{+p}/log.txt',
  'file://{a}{+p}',
  'file:///data{+p}',
  'file:///data/{a}{+p}/end/',
  'file:///data/{a}/{+q}-{n}',
  'file:///data/{+q}/{+a}',
  's3://bucket/{a}/',
  's3://bucket/{a}',
  's3://{a}/{+q}',
  's3://bucket/{+q}',
  's3://bucket/x{+p}/y/{n}',
  's3://bucket/{u}/{f}/{b}/',
  's3://bucket/{a}{b}',
  'gs://{a}-{n}/{b}',
  'file:///data/{n}/x{u}.bin',
  's3://bucket/{n}/{u}/',
  'file:///data/é{a}%_/{n}',
  'file:///data/{a}/{a}',
  's3://{a}//{b}',
  'file:///aba{a}ba/{n}',
  's3://bucket/{u}/{n}x/y',
  'file:///data/{n}',
  'file://{a}/d/x{u}.bin/',
  'file://gpu-01/é/{+n}/',
  's3://bucket/é{n}é/x/y',
  's3://bucket//{u}/',
  's3://bucket/{n}/',
  's3://{u}/x',
] as const;

const WORDS = [
  'a',
  'b',
  'ab',
  'a-b',
  'a_1',
  '1',
  '-1',
  'a%',
  'a_',
  '\\',
  "it's",
  '"',
  '(x)',
  '[a-z]',
  '^$',
  '{',
  'é',
  'A',
  '.x',
  '..x',
  'x.',
  ' ',
  'true',
  '$1',
  '100',
  '10',
];
const UUIDS = [
  '00000000-0000-4000-8000-000000000001',
  'ffffffff-ffff-4fff-8fff-ffffffffffff',
  '12345678-9abc-4def-8123-456789abcdef',
  'a0000000-0000-4000-8000-00000000000a',
  '99999999-9999-4999-8999-999999999999',
  '0f0f0f0f-0f0f-4f0f-8f0f-0f0f0f0f0f0f',
];

/** Nothing that an integer column renders, or not from any value that it can have. */
const NO_INTEGERS = ['-0', '+5', '007', '--1', '5-', '-', '9223372036854775808', '1'.repeat(1_000), '１'];

function rowsOf({ below, pick, chance }: ReturnType<typeof random>): Row[] {
  const word = () => (chance(0.05) ? null : pick(WORDS));
  const path = () => {
    const steps = Array.from({ length: 1 + below(3) }, () => pick(WORDS));
    return chance(0.05) ? null : `/${steps.join('/')}${chance(0.3) ? '/' : ''}`;
  };
  return Array.from({ length: 40 }, (_, k) => ({
    k,
    a: word(),
    b: word(),
    p: path(),
    q: path()?.slice(1) ?? null,
    n: chance(0.05) ? null : pick([0, 1, -1, 10, 100, 5, 42]),
    m: pick(['1', '1.0', '1.50', '-2', 'NaN', '100']),
    u: pick(UUIDS),
    f: chance(0.5),
    e: pick(['sad', 'so so', 'a.b']),
  }));
}

/** What is held, and what lies near it: above, below, beside, under another host, with and without a slash. */
function near(held: readonly string[], { below, pick, chance }: ReturnType<typeof random>): string[] {
  const targets = new Set<string>();
  for (const target of held) {
    const parts = target.split('/');
    const cut = parts.slice(0, 4 + below(Math.max(1, parts.length - 3))).join('/');
    for (const near of [
      target,
      cut,
      `${cut}/`,
      `${target}/`,
      `${target}x`,
      target.replace(/\/?$/, '/y'),
      target.replace(/.\/?$/, ''),
      target.replace(/^file:\/\/[^/]*/, 'file://other'),
      target.replace(/\d/, d => `0${d}`),
      target.replace(/(?<=\/x?)-?\d+(?=x?(?:\/|$))/, () => pick(NO_INTEGERS)),
      target.replace(/[0-9a-f]{8}-/, uuid => uuid.toUpperCase()),
      target.toUpperCase().replace(/^\w+:/, s => s.toLowerCase()),
    ]) {
      if (chance(0.5)) targets.add(near);
    }
    if (chance(0.2)) targets.add(`${target.replace(/\/?$/, '/')}${pick(WORDS)}`);
  }
  return [...targets].filter(isTarget);
}

function isTarget(text: string): boolean {
  try {
    parseTarget(text);
    return true;
  } catch {
    return false;
  }
}

async function fill(db: TestDatabase, rows: readonly Row[]): Promise<void> {
  await db.sql('TRUNCATE held');
  await db.sql('INSERT INTO held SELECT * FROM jsonb_populate_recordset(NULL::held, $1)', [
    JSON.stringify(rows),
  ]);
}

const INDEXES = [[], ['(a)', '(b)', '(n)', '(u)', '(p text_pattern_ops)'], ['(p COLLATE "C")', '(a, b)']];

describe('the guard says what an oracle without SQL says', () => {
  it.each(TEMPLATES.map((template, n) => ({ template, n })))('$template', async ({ template, n }) => {
    const db = await createDatabase();
    await db.sql(TABLE);
    const holders = new Holders(openDatabase(db.url, { max: 1 }));
    await db.sql("SELECT afterdelete.watch('held', $1)", [template]);
    const seen = { kept: 0, blocked: 0, go: 0 };
    for (let round = 0; round < 3; round++) {
      const r = random(1000 * n + round);
      await db.sql('DROP INDEX IF EXISTS held_i0, held_i1, held_i2, held_i3, held_i4');
      for (const [i, columns] of (INDEXES[round] ?? []).entries())
        await db.sql(`CREATE INDEX held_i${i} ON held ${columns}`);
      const rows = rowsOf(r);
      await fill(db, rows);
      const held = rows.map(row => render(template, row)).filter(target => target !== undefined);
      const targets = near(held, r);
      const expected = targets.map(target => expectedVerdict(held, target));
      // All at once, and a few by themselves, because few and many are looked up in different ways.
      const verdicts = await holders.ask(targets);
      const told = targets.map((target, i) => ({ target, verdict: verdicts[i]?.verdict ?? 'go' }));
      expect(told, `seed ${1000 * n + round}`).toEqual(
        targets.map((target, i) => ({ target, verdict: expected[i] })),
      );
      for (let i = 0; i < Math.min(6, targets.length); i++) {
        const k = r.below(targets.length);
        const [alone] = await holders.ask([targets[k] as string]);
        expect({ target: targets[k], verdict: alone?.verdict ?? 'go' }, `seed ${1000 * n + round}`).toEqual({
          target: targets[k],
          verdict: expected[k],
        });
      }
      for (const verdict of expected) seen[verdict] += 1;
    }
    // Or the comparison shows nothing.
    expect(seen.kept).toBeGreaterThan(10);
    expect(seen.go).toBeGreaterThan(10);
    if (template.startsWith('file:') || template.split('/').filter(Boolean).length > 3)
      expect(seen.blocked).toBeGreaterThan(0);
  });
});
