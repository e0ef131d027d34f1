/** `afterdelete check --adopt`: a person says that the disk at a root is the right one now. */
import { hostname, userInfo } from 'node:os';
import type { Config } from '../config.ts';
import { Outbox } from '../outbox/outbox.ts';
import { quoteTarget } from '../target.ts';
import { print, withDatabase } from './command.ts';
import { createHandlers, handlerFor } from './compose.ts';
import { type ExitCode, UsageError } from './failure.ts';

/** @throws UsageError when the root is not configured, or of a kind that carries no mark. */
export async function adopt(root: string, config: Config): Promise<ExitCode> {
  const roots = config.roots.map(({ uri }) => uri);
  if (!roots.includes(root)) {
    const near = roots.includes(`${root}/`) ? `${root}/` : roots.join(' or ');
    throw new UsageError(`--adopt: expected a configured root (${near}), got ${quoteTarget(root)}`);
  }
  const handler = handlerFor(root, createHandlers(config, process.env));
  if (handler.identify === undefined) {
    throw new UsageError(`--adopt: ${root} needs no mark: only file: roots have one`);
  }
  const identify = handler.identify.bind(handler);
  return await withDatabase<ExitCode>(config, 'check --adopt', async db => {
    const outbox = new Outbox(db);
    // Only now, that it can be recorded, may a mark be written.
    const found = await identify(root, { create: true });
    const before = await outbox.rootIdentity(root);
    if (before === found) {
      print(`${root} is the recorded disk already: ${found}`);
      return 0;
    }
    await outbox.adoptRoot(root, found, `afterdelete check --adopt by ${whoAmI()}`);
    print(
      `${root} is recorded as what is there now`,
      `  before: ${before ?? 'nothing'}`,
      `  now:    ${found}`,
    );
    return 0;
  });
}

/** In a container the user may have no name. */
function whoAmI(): string {
  try {
    return `${userInfo().username}@${hostname()}`;
  } catch {
    return `user ${process.getuid?.() ?? '?'}@${hostname()}`;
  }
}
