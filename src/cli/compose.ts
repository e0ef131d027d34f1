/** The composition root of the command: from the settings to handlers and a daemon. */

import type { Env } from '../config/source.ts';
import { type Config, credentialsOf, type RootConfig } from '../config.ts';
import type { Handler } from '../handlers/contract.ts';
import { createFileHandler } from '../handlers/file/index.ts';
import { createS3Handler, type S3StoreSettings } from '../handlers/s3/index.ts';
import { createReconciler, type Reconciler } from '../reconciler/reconciler.ts';

type HandlerSettings = Pick<Config, 'roots' | 'host' | 'storageTimeout'>;

/** One handler for each scheme that a root may have. */
export function createHandlers(settings: HandlerSettings, env: Env): Handler[] {
  const { roots, host, storageTimeout } = settings;
  const stores = new Map(
    roots.filter(root => root.uri.startsWith('s3://')).map(root => [root.store, s3Settings(root, env)]),
  );
  return [createFileHandler(host === undefined ? {} : { host }), createS3Handler({ stores, storageTimeout })];
}

/** What a root says about its bucket; roots of one store say the same, the configuration sees to that. */
function s3Settings(root: RootConfig, env: Env): S3StoreSettings {
  const { endpoint, region, forcePathStyle, deleteMode, versions, uploads, newer, checksum } = root;
  const credentials = credentialsOf(root, env);
  return {
    deleteMode,
    versions,
    uploads,
    newer,
    ...(checksum === 'auto' ? {} : { checksum }),
    ...(endpoint === undefined ? {} : { endpoint }),
    ...(region === undefined ? {} : { region }),
    ...(forcePathStyle === undefined ? {} : { forcePathStyle }),
    ...(credentials === undefined ? {} : { credentials }),
  };
}

/** The handler for a root's scheme. */
export function handlerFor(root: string, handlers: readonly Handler[]): Handler {
  const handler = handlers.find(candidate => root.startsWith(`${candidate.scheme}://`));
  if (handler === undefined) throw new TypeError(`no handler for the root ${root}`);
  return handler;
}

/** A limit of each store whose roots set it. */
function limits(roots: readonly RootConfig[], name: 'concurrency' | 'rate'): Map<string, number> {
  return new Map(
    roots.flatMap(({ store, [name]: limit }): [string, number][] =>
      limit === undefined ? [] : [[store, limit]],
    ),
  );
}

/** The daemon, not started yet. */
export function createDaemon(config: Config, env: Env): Reconciler {
  return createReconciler({
    databaseUrl: config.databaseUrl,
    listenUrl: config.listenUrl,
    roots: config.roots.map(root => root.uri),
    handlers: createHandlers(config, env),
    concurrency: config.concurrency,
    storeConcurrency: limits(config.roots, 'concurrency'),
    storeRate: limits(config.roots, 'rate'),
    prefetch: config.prefetch,
    maxAttempts: config.maxAttempts,
    retryBase: config.retryBase,
    retryCap: config.retryCap,
    lease: config.lease,
    poll: config.poll,
    fuse: config.fuse,
    shutdownGrace: config.shutdownGrace,
    history: config.history,
  });
}
