/** Runs the handler as a user who is not root: root may do everything, so permissions cannot be tried as root. */
import { spawn } from 'node:child_process';
import { chmod } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import type { Inspection, Result } from '../../../src/handlers/contract.ts';
import { createFileHandler } from '../../../src/handlers/file/index.ts';
import { parseTarget } from '../../../src/target.ts';
import { createTestContext } from '../context.ts';
import { type Disk, succeeds } from './disk.ts';

const NOBODY = 65534;

interface Order {
  readonly what: 'delete' | 'inspect' | 'probe';
  readonly root: string;
  readonly identity: string;
  readonly target: string;
  readonly pinned: boolean;
}

/** Deletes as another user, or as this one who is not root; undefined where that is not possible. */
export async function deleteAsAnother(
  disk: Disk,
  path: string,
  pinned: boolean,
): Promise<Result | undefined> {
  return (await asAnother(disk, 'delete', path, pinned)) as Result | undefined;
}

export async function inspectAsAnother(disk: Disk, path: string): Promise<Inspection | undefined> {
  return (await asAnother(disk, 'inspect', path, true)) as Inspection | undefined;
}

/** The message with which probing failed, or the empty string. */
export async function probeAsAnother(disk: Disk): Promise<string | undefined> {
  return (await asAnother(disk, 'probe', 'any', true)) as string | undefined;
}

async function asAnother(disk: Disk, what: Order['what'], path: string, pinned: boolean): Promise<unknown> {
  const { root, identity } = disk;
  const order: Order = { what, root, identity, target: `${root}${path}`, pinned };
  if (process.getuid?.() !== 0) return obey(order);
  // The rest of the way there is what mkdtemp made for its owner alone.
  await chmod(disk.base, 0o755);
  await succeeds('chown', '-R', String(NOBODY), disk.path);
  return new Promise(resolve => {
    const child = spawn(process.execPath, [fileURLToPath(import.meta.url), JSON.stringify(order)], {
      ...{ uid: NOBODY, gid: NOBODY, cwd: '/' },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let output = '';
    child.stdout.on('data', (data: Buffer) => {
      output += data.toString();
    });
    child.on('error', () => resolve(undefined));
    child.on('close', code => resolve(code === 0 ? JSON.parse(output) : undefined));
  });
}

async function obey({ what, root, identity, target, pinned }: Order): Promise<unknown> {
  const handler = createFileHandler({ pinned });
  const context = createTestContext({ identity: () => identity });
  const cleanup = { id: '1', target: parseTarget(target), root, pruneParents: 0, attempt: 0 };
  if (what === 'inspect') return handler.inspect(cleanup, context);
  if (what === 'delete') return (await handler.delete([cleanup], context))[0];
  return handler.probe(root, context).then(
    () => '',
    (error: Error) => error.message,
  );
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  process.stdout.write(JSON.stringify(await obey(JSON.parse(process.argv[2] as string) as Order)));
}
