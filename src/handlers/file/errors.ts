/** What the operating system's error codes mean for a cleanup, and what a person can do about them. */
import { getSystemErrorMessage } from 'node:util';
import { StorageError, type StorageErrorKind } from '../contract.ts';

/** The code of a system error, e.g. `EACCES`; undefined for anything else. */
export function codeOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

/** Whether a directory could not be removed because something is in it. Some systems say EEXIST (POSIX: rmdir). */
export function isNotEmpty(error: unknown): boolean {
  const code = codeOf(error);
  return code === 'ENOTEMPTY' || code === 'EEXIST';
}

interface Meaning {
  readonly kind: StorageErrorKind;
  readonly advice?: string;
}

const RETRY: Meaning = { kind: 'transient' };
const MEANINGS: Readonly<Record<string, Meaning>> = {
  EACCES: {
    kind: 'permanent',
    advice: "Give the daemon's user permission to write and search in the directory, then retry the cleanup.",
  },
  EPERM: {
    kind: 'permanent',
    advice:
      'Look for an immutable or append-only flag (lsattr) or a sticky directory of another user, then retry the cleanup.',
  },
  EROFS: {
    kind: 'permanent',
    advice: 'The file system is mounted read-only: mount it writable, then retry the cleanup.',
  },
  ENAMETOOLONG: {
    kind: 'permanent',
    advice: 'No file can have such a name: correct or discard the cleanup.',
  },
  ELOOP: { kind: 'permanent', advice: 'Symbolic links below a root are never followed: use the real path.' },
  EBUSY: { kind: 'transient', advice: 'Something uses it, or it is a mount point.' },
  ENOTEMPTY: { kind: 'transient', advice: 'Something still writes there.' },
  EEXIST: { kind: 'transient', advice: 'Something still writes there.' },
  EMFILE: { kind: 'transient', advice: 'The daemon has too many open files: raise its limit (ulimit -n).' },
  ENFILE: RETRY,
  ENOMEM: RETRY,
  EAGAIN: RETRY,
  EINTR: RETRY,
  EIO: { kind: 'unavailable', advice: 'The disk fails: look at the kernel log.' },
  ESTALE: { kind: 'unavailable', advice: 'The network file system has lost it: mount it again.' },
  ENOTCONN: { kind: 'unavailable', advice: 'The file system is not connected: mount it again.' },
  ETIMEDOUT: { kind: 'unavailable', advice: 'The file system does not answer.' },
  EHOSTDOWN: { kind: 'unavailable', advice: 'The file server is down.' },
};

/** Codes after which nothing else on the same file system can be expected to work. EIO may be a single bad block. */
const STORE_IS_DOWN: ReadonlySet<string> = new Set(['ESTALE', 'ENOTCONN', 'ETIMEDOUT', 'EHOSTDOWN']);

/**
 * A system error as a failure with a class: what was tried on which path, the code, and what to do. The original
 * message is not repeated: it names a path like `/proc/self/fd/17/x`, which tells nobody anything.
 * Errors that are already classified, and those that are no system errors, are returned as they are.
 */
export function classify(error: unknown, tried: string, path: string): unknown {
  const code = codeOf(error);
  if (error instanceof StorageError || code === undefined) return error;
  const { kind, advice } = MEANINGS[code] ?? RETRY;
  const message = `could not ${tried} ${quotePath(path)}: ${reason(error, code)}`;
  return new StorageError(kind, advice ? `${message}. ${advice}` : message, { cause: error });
}

/** The code with the operating system's words for it, e.g. `EACCES (permission denied)`. */
export function reason(error: unknown, code: string): string {
  const errno = error instanceof Error && 'errno' in error ? error.errno : undefined;
  return typeof errno === 'number' ? `${code} (${getSystemErrorMessage(errno)})` : code;
}

/** Whether going on with other files of the same store is of no use: it does not answer. */
export function isStoreDown(error: unknown): boolean {
  if (!(error instanceof StorageError) || error.kind !== 'unavailable') return false;
  const code = codeOf(error.cause);
  // Without a system error behind it, it is the storage timeout.
  return code === undefined || STORE_IS_DOWN.has(code);
}

const LONGEST_SHOWN = 400;

/** A path as it may stand in a message: quoted, control characters escaped, a long one shortened in the middle. */
export function quotePath(path: string): string {
  const shown =
    path.length > LONGEST_SHOWN
      ? `${path.slice(0, LONGEST_SHOWN / 4)}…${path.slice((-LONGEST_SHOWN * 3) / 4)}`
      : path;
  // JSON leaves DEL and the C1 controls as they are; a terminal would obey them.
  return JSON.stringify(shown).replace(/[\u007f-\u009f]/g, c => `\\u00${c.charCodeAt(0).toString(16)}`);
}
