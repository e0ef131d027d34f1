/** A cleanup on its way through the handler: where its target is, and what has become of it. */
import { isInside, quoteTarget, ROOT_SENTINEL } from '../../target.ts';
import { type Cleanup, type Result, resultOf, StorageError } from '../contract.ts';
import { classify } from './errors.ts';
import { bytesOf, Folder, FolderTree, type Name, nameOf, namesOf, Unreachable } from './folders.ts';
import { NONE } from './remove.ts';

export interface Job {
  readonly cleanup: Cleanup;
  /** The directory that holds the target. */
  readonly parent: Folder;
  /** The target's own name in it. */
  readonly name: Name;
  result: Result | undefined;
}

/**
 * Why a cleanup may not be carried out at all, before anything is looked at. Whoever wrote it has been checked, by
 * the database and by the reconciler; this stands because a mistake here cannot be undone.
 */
export function refusal(cleanup: Cleanup, host: string | undefined): StorageError | undefined {
  const { target, root } = cleanup;
  const refuse = (why: string) =>
    new StorageError('permanent', `${quoteTarget(target.text)} ${why}. Nothing was touched.`);
  if (target.scheme !== 'file' || target.text !== `${target.store}${target.path}`) {
    return refuse('is no file target: expected file:// and a path');
  }
  if (host !== undefined && target.authority !== '' && target.authority !== host) {
    return refuse(`is on another machine: this one is ${quoteTarget(host)}`);
  }
  if (!root.endsWith('/') || !isInside(target.text, root)) {
    return refuse(`is not inside the root ${root}: expected a path below it, and not its mark`);
  }
  const names = namesOf(target.path);
  if (names.some(name => name === '' || name === '.' || name === '..' || name.includes('\0'))) {
    return refuse("has a segment that no path may have: expected none that is empty, '.' or '..'");
  }
  // Where names are compared without regard to case, this is the mark too.
  const [first] = target.text.slice(root.length).split('/', 1);
  if (first?.toLowerCase() === ROOT_SENTINEL) return refuse(`is the mark of the root ${root}`);
  return undefined;
}

/** Where a root or target is, without a slash at its end; the host has been compared before. */
export function rootPath(root: string): string {
  return root.slice(root.indexOf('/', 'file://'.length)).replace(/\/$/, '');
}

/** The names of the steps from a root down to a target inside it. */
function namesBelow({ text }: Cleanup['target'], root: string): Name[] {
  return namesOf(text.slice(root.length));
}

/** Turns cleanups of one root into jobs. Those in the same directory share its Folder. */
export function createJobs(cleanups: readonly Cleanup[], root: string): Job[] {
  const tree = new FolderTree(new Folder(undefined, nameOf(Buffer.from(rootPath(root)))));
  return cleanups.map(cleanup => {
    const below = namesBelow(cleanup.target, root);
    const name = below.pop() ?? '';
    return { cleanup, parent: tree.at(below), name, result: undefined };
  });
}

/** The text of a target again, from where it is. */
export function textOf(root: string, parent: Folder, name: Name, tree: boolean): string {
  const names = [...parent.address(), name].join('/');
  return `${root}${bytesOf(names).toString('utf8')}${tree ? '/' : ''}`;
}

/** What has become of a target, from what was thrown while its directory was entered or it was being removed. */
export function failed(text: string, parent: Folder, name: Name, error: unknown): Result {
  if (error instanceof Unreachable) {
    if (error.absent) return { ...NONE, outcome: 'absent' };
    return resultOf(error.refusal(quoteTarget(text)), NONE);
  }
  return resultOf(classify(error, 'delete', parent.path(name)), NONE);
}

/** The failure of a target that is written the wrong way round. */
export function wrongKind(text: string, found: 'directory' | 'file'): StorageError {
  const target = quoteTarget(text);
  return new StorageError(
    'permanent',
    found === 'directory'
      ? `${target} is a directory: expected a file, because the target has no slash at its end. Nothing was touched. ` +
          'A directory with all that is in it is named with a slash.'
      : `${target} is a file: expected a directory, because the target has a slash at its end. Nothing was touched. ` +
          'A file is named without a slash.',
  );
}
