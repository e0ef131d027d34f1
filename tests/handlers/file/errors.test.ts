import { constants } from 'node:os';
import { describe, expect, it } from 'vitest';
import { StorageError, type StorageErrorKind } from '../../../src/handlers/contract.ts';
import { classify, isStoreDown, quotePath } from '../../../src/handlers/file/errors.ts';

const failure = (code: string) =>
  Object.assign(new Error(`${code}: something about /proc/self/fd/17/x`), {
    code,
    errno: -(constants.errno[code as keyof typeof constants.errno] ?? 1),
  });

describe('system errors', () => {
  it.each<[StorageErrorKind, string]>([
    ['permanent', 'EACCES EPERM EROFS ENAMETOOLONG ELOOP'],
    ['transient', 'ENOTEMPTY EBUSY EMFILE ENFILE ENOMEM EAGAIN EINTR EDQUOT'],
    ['unavailable', 'EIO ESTALE ENOTCONN ETIMEDOUT'],
  ])('of kind %s: %s', (kind, codes) => {
    for (const code of codes.split(' ')) {
      const error = classify(failure(code), 'delete', '/data/x') as StorageError;
      expect(error).toBeInstanceOf(StorageError);
      expect(error.kind).toBe(kind);
      expect(error.message).toContain(`could not delete "/data/x": ${code} (`);
      expect(error.message).not.toContain('/proc/self');
    }
  });

  it('says what to do', () => {
    const message = (code: string) => (classify(failure(code), 'delete', '/x') as StorageError).message;
    expect(message('EACCES')).toMatch(/EACCES \(permission denied\)\. Give the daemon's user permission/);
    expect(message('EROFS')).toContain('mount it writable');
    expect(message('ESTALE')).toContain('mount it again');
  });

  it('lets through what is classified, and what is no system error', () => {
    const [classified, other] = [new StorageError('unavailable', 'slow'), new TypeError('a bug')];
    expect(classify(classified, 'delete', '/x')).toBe(classified);
    expect(classify(other, 'delete', '/x')).toBe(other);
  });

  it('tells a store that is down from one bad file', () => {
    const down = (code: string) => isStoreDown(classify(failure(code), 'delete', '/x'));
    expect(['ESTALE', 'ENOTCONN', 'ETIMEDOUT'].map(down)).toEqual([true, true, true]);
    expect(['EIO', 'EACCES', 'EBUSY'].map(down)).toEqual([false, false, false]);
    expect(isStoreDown(new StorageError('unavailable', 'the storage timeout'))).toBe(true);
  });
});

describe('a path in a message', () => {
  it('cannot do anything to a terminal', () => {
    expect(quotePath('/a\n\u001b[31m\u009b"')).toBe('"/a\\n\\u001b[31m\\u009b\\""');
  });

  it('is shortened in the middle, because its end says most', () => {
    const shown = quotePath(`/start/${'x/'.repeat(1000)}end`);
    expect(shown.length).toBeLessThan(420);
    expect(shown).toMatch(/^"\/start\/.*….*\/end"$/);
  });
});
