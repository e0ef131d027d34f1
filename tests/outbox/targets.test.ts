import { describe, expect, it } from 'vitest';
import { InvalidTargetError, parseTarget, storeOf, TARGET_RULES } from '../../src/target.ts';
import { fileDatabase } from './rows.ts';

/** mulberry32: small, and the same everywhere. */
function seeded(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

const SCHEMES = [
  'file',
  's3',
  'gs',
  'azblob',
  'fake',
  'a',
  'h2+x.y-z',
  'filex',
  'fil',
  'files',
  '0x',
  '+a',
  '-a',
  '.a',
  'A',
  'S3',
  'sé',
  'File',
  'ſ3',
  'a_b',
  'a b',
  'a:b',
  '',
  ' s3',
  'z9',
  'ａ',
  '{',
  '`',
  'a\u0000'.slice(0, 1),
];
const SEPARATORS = ['://', '://', '://', '://', '://', '://', ':/', ':', '//', ':///', '://:', '', '::/'];
const AUTHORITIES = [
  '',
  '',
  'bucket',
  'gpu-01',
  '..',
  '.',
  'a.b',
  'b@c:9',
  'bücket',
  ' ',
  '%2e%2e',
  '\u0085',
  '\\',
  '[::1]',
  '...',
];
const SEGMENTS = [
  '',
  '',
  'a',
  'data',
  '.',
  '..',
  '...',
  '.a',
  'a.',
  '..a',
  ' ',
  ' .',
  '%2e',
  '%2F',
  '%00',
  '\\..\\',
  '?q=1',
  '#f',
  '*',
  '~',
  'ä',
  'a\u0308',
  'é',
  '日本',
  '😀',
  '\u200b',
  '\u2028',
  '\ufeff',
  '\u00a0',
  '\u0080',
  '\u009f',
  '\u007f',
  '\u0001',
  '\n',
  '\t',
  '\r',
  '\u001f',
  '．．',
  '\u2024\u2024',
  '..\u0000'.slice(0, 2),
  "'",
  '"',
  '$1',
  '{x}',
  '\\x01',
  '\ud83d\ude00',
  '\ufffd',
  '\u00ad',
  ':',
  '://',
  '.afterdelete-root',
  'x'.repeat(255),
];

function hostileTargets(count: number): string[] {
  const random = seeded(20_261_120);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)] as T;
  // Mostly harmless schemes and separators, or nothing would ever reach the later rules.
  const scheme = () => (random() < 0.7 ? pick(['file', 's3', 'gs']) : pick(SCHEMES));
  const separator = () => (random() < 0.8 ? '://' : pick(SEPARATORS));
  const targets = [''];
  while (targets.length < count) {
    const segments = Array.from({ length: Math.floor(random() * 6) }, () => pick(SEGMENTS));
    let text = [scheme() + separator() + pick(AUTHORITIES), ...segments].join('/');
    if (random() < 0.05) {
      // Cut or filled to the byte: 4095 to 4098, the last character of one to four bytes.
      const last = pick(['a', 'ä', '日', '😀', '/']);
      const size = 4095 + Math.floor(random() * 4);
      const room = size - Buffer.byteLength(text) - Buffer.byteLength(last);
      if (room > 0) text += 'y'.repeat(room) + last;
    }
    if (random() < 0.1) {
      const at = Math.floor(random() * (text.length + 1));
      const code = Math.floor(random() * 0x2ff) + 1;
      text = text.slice(0, at) + String.fromCodePoint(code) + text.slice(at);
    }
    // PostgreSQL stores neither NUL nor half of a surrogate pair: those never reach a CHECK.
    if (text.isWellFormed() && !text.includes('\u0000')) targets.push(text);
  }
  return targets;
}

function ruleOf(target: string): string {
  try {
    parseTarget(target);
    return 'valid';
  } catch (error) {
    return (error as InvalidTargetError).rule;
  }
}

const REFUSED: readonly (readonly [string, string])[] = [
  ['file:///', 'target_of_a_file_has_a_path'],
  ['file:////', 'target_of_a_file_has_a_path'],
  ['file://host', 'target_of_a_file_has_a_path'],
  ['file://host/', 'target_of_a_file_has_a_path'],
  ['file:///a//', 'target_of_a_file_has_no_empty_segments'],
  ['file://../etc/passwd', 'target_has_no_dot_segments'],
  ['file:///a/..', 'target_has_no_dot_segments'],
  ['s3://bucket/./', 'target_has_no_dot_segments'],
  ['s3://./key', 'target_has_no_dot_segments'],
  ['s3://bucket', 'target_of_an_object_has_bucket_and_key'],
  ['s3:///', 'target_of_an_object_has_bucket_and_key'],
  ['s3:////', 'target_of_an_object_has_bucket_and_key'],
  ['s3:///key', 'target_of_an_object_has_bucket_and_key'],
  ['', 'target_has_a_scheme'],
  ['://a/b', 'target_has_a_scheme'],
  ['data/a.bin', 'target_has_a_scheme'],
  ['S3://bucket/key', 'target_has_a_scheme'],
  ['3s://bucket/key', 'target_has_a_scheme'],
  ['file:///a\u0085', 'target_has_no_control_characters'],
  ['file:///日\u009f', 'target_has_no_control_characters'],
  ['file:///a\tb', 'target_has_no_control_characters'],
  ['file:///a\nb', 'target_has_no_control_characters'],
  ['file:///a\u007f', 'target_has_no_control_characters'],
  [`file:///${'a'.repeat(4089)}`, 'target_at_most_4096_bytes'],
  [`file:///${'a'.repeat(4085)}😀`, 'target_at_most_4096_bytes'],
];

const TAKEN = [
  `file:///${'a'.repeat(4088)}`,
  `file:///${'a'.repeat(4084)}😀`,
  's3://bucket//',
  's3://bucket/ ',
  's3://bucket/a\u00a0\u2028b',
  'file:///...',
  'file:///a/..b/.c',
  'a://b/c',
  "file:///it's",
];

const VERDICT = `CREATE FUNCTION pg_temp.verdict(t text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  rule text;
BEGIN
  PERFORM t::afterdelete.target;
  RETURN 'valid';
EXCEPTION WHEN check_violation THEN
  GET STACKED DIAGNOSTICS rule = CONSTRAINT_NAME;
  RETURN rule;
END
$$`;

const db = fileDatabase();

describe('a target', () => {
  it('is judged alike by the database and by the library, rule by rule, on 8,000 hostile ones', async () => {
    const client = await db.connect();
    await client.query(VERDICT);
    const targets = hostileTargets(8_000);
    const { rows } = await client.query<{ verdict: string }>(
      'SELECT pg_temp.verdict(t.target) AS verdict FROM unnest($1::text[]) WITH ORDINALITY AS t (target, n) ORDER BY t.n',
      [targets],
    );
    const differing = targets
      .map((target, i) => ({
        target: target.slice(0, 200),
        database: rows[i]?.verdict,
        library: ruleOf(target),
      }))
      .filter(verdict => verdict.database !== verdict.library);
    expect(differing).toEqual([]);
    // The generator is worth something only while it reaches every rule, and some targets pass.
    const verdicts = new Set(rows.map(row => row.verdict));
    expect([...verdicts].sort()).toEqual([...TARGET_RULES, 'valid'].sort());
    expect(rows.filter(row => row.verdict === 'valid').length).toBeGreaterThan(1_000);
  });

  it('is stored byte by byte, under the store that storeOf names', async () => {
    const targets = [...new Set(hostileTargets(8_000).filter(target => ruleOf(target) === 'valid'))];
    const rows = await db.sql<{ target: string; store: string }>(
      `INSERT INTO afterdelete.pending_file_cleanup (target)
       SELECT t.target FROM unnest($1::text[]) WITH ORDINALITY AS t (target, n) ORDER BY t.n RETURNING target, store`,
      [targets],
    );
    expect(rows.map(row => row.target)).toEqual(targets);
    expect(rows.map(row => row.store)).toEqual(targets.map(storeOf));
  });

  it('that breaks a rule is refused on INSERT with the name of the rule', async () => {
    for (const [target, rule] of REFUSED) {
      await expect(
        db.sql('INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ($1)', [target]),
      ).rejects.toMatchObject({ code: '23514', constraint: rule });
      expect(ruleOf(target)).toBe(rule);
    }
  });

  it('at the edge of a rule is taken, by both', async () => {
    for (const target of TAKEN) {
      await db.sql('INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ($1)', [target]);
      expect(ruleOf(target)).toBe('valid');
    }
  });

  // Reported: pg sends U+FFFD in its place, so that another file would be deleted.
  it('with half of a surrogate pair is refused by the library: PostgreSQL would be sent another one', () => {
    expect(() => parseTarget('file:///data/a\ud800')).toThrow(InvalidTargetError);
  });
});
