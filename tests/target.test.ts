import { describe, expect, it } from 'vitest';
import {
  InvalidTargetError,
  isInside,
  parseTarget,
  quoteTarget,
  rootProblem,
  storeOf,
} from '../src/target.ts';

describe('parseTarget', () => {
  it.each([
    [
      'file:///data/a.bin',
      { scheme: 'file', authority: '', store: 'file://', path: '/data/a.bin', tree: false },
    ],
    ['file:///data/t1/', { scheme: 'file', authority: '', store: 'file://', path: '/data/t1/', tree: true }],
    [
      'file://gpu-01/data/x/',
      { scheme: 'file', authority: 'gpu-01', store: 'file://gpu-01', path: '/data/x/', tree: true },
    ],
    [
      's3://bucket/key',
      { scheme: 's3', authority: 'bucket', store: 's3://bucket', path: 'key', tree: false },
    ],
    [
      's3://bucket/a%2Fb/',
      { scheme: 's3', authority: 'bucket', store: 's3://bucket', path: 'a%2Fb/', tree: true },
    ],
    [
      's3://bucket//key',
      { scheme: 's3', authority: 'bucket', store: 's3://bucket', path: '/key', tree: false },
    ],
    ['gs://b/ k ', { scheme: 'gs', authority: 'b', store: 'gs://b', path: ' k ', tree: false }],
  ])('takes %s apart without changing a byte', (text, parts) => {
    expect(parseTarget(text)).toEqual({ text, ...parts });
    expect(storeOf(text)).toBe(parts.store);
  });

  it.each([
    ['/data/a.bin', 'target_has_a_scheme'],
    ['FILE:///data/a', 'target_has_a_scheme'],
    ['', 'target_has_a_scheme'],
    ['file:///a\nb', 'target_has_no_control_characters'],
    ['file:///a\u0085b', 'target_has_no_control_characters'],
    ['file:///a/../b', 'target_has_no_dot_segments'],
    ['s3://bucket/a/.', 'target_has_no_dot_segments'],
    ['file:///a//b', 'target_of_a_file_has_no_empty_segments'],
    ['file:///', 'target_of_a_file_has_a_path'],
    ['file://host', 'target_of_a_file_has_a_path'],
    ['s3://bucket/', 'target_of_an_object_has_bucket_and_key'],
    ['s3:///key', 'target_of_an_object_has_bucket_and_key'],
    [`file:///${'a'.repeat(4096)}`, 'target_at_most_4096_bytes'],
  ])('refuses %j by the rule %s', (text, rule) => {
    expect(() => parseTarget(text)).toThrow(InvalidTargetError);
    try {
      parseTarget(text);
    } catch (error) {
      expect((error as InvalidTargetError).rule).toBe(rule);
      expect((error as Error).message).toContain(quoteTarget(text));
    }
  });
});

describe('isInside', () => {
  it.each([
    ['file:///data/t/a', 'file:///data/t/', true],
    ['file:///data/t/', 'file:///data/t/', false],
    ['file:///data/t', 'file:///data/t/', false],
    ['file:///data/t2/a', 'file:///data/t/', false],
    ['file:///data/t/.afterdelete-root', 'file:///data/t/', false],
    ['file:///data/t/.afterdelete-root/', 'file:///data/t/', false],
    ['file:///data/t/.afterdelete-root2', 'file:///data/t/', true],
    ['s3://b/a/1', 's3://b/a/', true],
    ['s3://b/a/', 's3://b/', true],
  ])('%s inside %s: %s', (target, root, inside) => {
    expect(isInside(target, root)).toBe(inside);
  });
});

describe('rootProblem', () => {
  it.each(['file:///data/', 's3://bucket/', 's3://bucket/a/'])('accepts %s', root => {
    expect(rootProblem(root)).toBeUndefined();
  });
  it.each(['file:///', 'file:///data', '/data/', 's3:///', 's3://b/../'])('refuses %s', root => {
    expect(rootProblem(root)).toBeTypeOf('string');
  });
});

it('quotes what a terminal would obey', () => {
  expect(quoteTarget('a\u001b[2J\u007f\u009b\u202e')).toBe('"a\\u001b[2J\\u007f\\u009b\\u202e"');
});
