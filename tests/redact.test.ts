import { describe, expect, it } from 'vitest';
import { redact, redactConnectionString, redactLine } from '../src/redact.ts';

describe('redact', () => {
  it.each([
    ['cannot reach postgres://me:hunter2@db:5432/x', 'cannot reach postgres://me:***@db:5432/x'],
    ['postgresql://me:a/b@c#d@db/x', 'postgresql://me:***@db/x'],
    ['postgres://me:two words@db/x', 'postgres://me:***@db/x'],
    ['postgres://:hunter2@db/x', 'postgres://:***@db/x'],
    ['postgres://me@db/x?password=hunter2&ssl=1', 'postgres://me@db/x?password=***&ssl=1'],
    ["host=db password='hunter 2' user=me", 'host=db password=*** user=me'],
    ['http://key:hunter2@minio:9000/b', 'http://key:***@minio:9000/b'],
    ['https://b/k?X-Amz-Signature=hunter2&a=1', 'https://b/k?X-Amz-Signature=***&a=1'],
  ])('%s', (text, safe) => {
    expect(redact(text)).toBe(safe);
    expect(redact(safe)).toBe(safe);
  });

  it.each([
    'file:///data/a:b@c',
    's3://bucket/user:name@example.org/x',
    'postgres://me@db:5432/x failed for bob@example.org',
    'postgres://db:5432/x failed for bob@example.org',
    'nothing to hide',
  ])('leaves %s as it is', text => {
    expect(redact(text)).toBe(text);
  });
});

describe('redactConnectionString', () => {
  it.each([
    ['postgres://me:a/b@db/x', '"postgres://me:***@db/x"'],
    ['mysql://me:pw@db/x?password=pw', '"mysql://me:***@db/x"'],
    ['postgres://me@db:x/y', '"postgres://me@db:x/y"'],
    ['postgres://db/x', '"postgres://db/x"'],
    ['me:hunter2@db/x', 'a text without a scheme (not shown)'],
    ['hunter2', 'a text without a scheme (not shown)'],
  ])('%s', (text, safe) => {
    expect(redactConnectionString(text)).toBe(safe);
  });
});

describe('redactLine', () => {
  it('leaves a line with nothing in it byte by byte', () => {
    const line = '{"target": "file:///data/a" }\n';
    expect(redactLine(line)).toBe(line);
  });
  it('takes no longer for a target that looks like the beginning of very many URLs', () => {
    const line = JSON.stringify({ event: 'cleanup_done', target: `s3://b/${'a.'.repeat(400_000)}@` });
    const started = performance.now();
    expect(redactLine(line)).toBe(`${line}\n`);
    // Some 400 ms; quadratic time would be minutes.
    expect(performance.now() - started).toBeLessThan(10_000);
  });
  it('masks fields named like a secret, at any depth', () => {
    const line = '{"a":[{"secretAccessKey":"x"}],"credentials":{"y":"z"},"password":null}\n';
    expect(redactLine(line)).toBe('{"a":[{"secretAccessKey":"***"}],"credentials":"***","password":null}\n');
  });
  it('redacts what is no JSON as text', () => {
    expect(redactLine('x postgres://u:p@h/d')).toBe('x postgres://u:***@h/d');
  });
});
