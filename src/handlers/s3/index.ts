/** The handler of `s3:` targets: objects in batches, prefixes page by page. */

import { isInside, quoteTarget, storeOf } from '../../target.ts';
import {
  type Cleanup,
  type Context,
  type Handler,
  type Inspection,
  NOTHING,
  type Result,
  resultOf,
} from '../contract.ts';
import { Bucket, MAX_KEYS } from './bucket.ts';
import { Connections, type S3StoreSettings } from './clients.ts';
import { deleteKeys, type KeyOutcome } from './delete-keys.ts';
import { deletePrefix } from './prefix.ts';

export type { S3StoreSettings } from './clients.ts';

export interface S3HandlerOptions {
  /** How each bucket is reached, by its store: `s3://bucket`. One that is not named is reached as the SDK would. */
  readonly stores: ReadonlyMap<string, S3StoreSettings>;
  /** Milliseconds after which a request ends by itself. Default: only when its context's signal says so. */
  readonly storageTimeout?: number;
}

/** Makes the handler. No client exists, and nothing is read from the environment, before its first request. */
export function createS3Handler(options: S3HandlerOptions): Handler {
  return new S3Handler(options);
}

class S3Handler implements Handler {
  readonly scheme = 's3';
  readonly batchSize = MAX_KEYS;
  readonly #stores: ReadonlyMap<string, S3StoreSettings>;
  readonly #connections: Connections;
  readonly #buckets = new Map<string, Bucket>();

  constructor({ stores, storageTimeout }: S3HandlerOptions) {
    this.#stores = stores;
    this.#connections = new Connections(storageTimeout);
  }

  async delete(batch: readonly Cleanup[], context: Context): Promise<readonly Result[]> {
    const outside = batch.map(outsideOfRoot);
    // A batch is of one store; grouped all the same, so that a key never meets another bucket.
    const keys = new Map<string, Set<string>>();
    for (const [n, { target }] of batch.entries()) {
      if (outside[n] !== undefined || target.tree) continue;
      keys.set(target.store, (keys.get(target.store) ?? new Set()).add(target.path));
    }
    const outcomes = new Map<string, Map<string, KeyOutcome>>();
    for (const [store, paths] of keys) {
      outcomes.set(store, new Map(await deleteKeys(this.#bucket(store), paths, context)));
    }
    const results: Result[] = [];
    for (const [n, cleanup] of batch.entries()) {
      const { target } = cleanup;
      const problem = outside[n];
      if (problem !== undefined) results.push({ ...NOTHING, outcome: 'dead', error: problem });
      else if (target.tree) results.push(await deletePrefix(this.#bucket(target.store), cleanup, context));
      else {
        const outcome = outcomes.get(target.store)?.get(target.path);
        results.push(resultOfKey(outcome));
        // One object, deleted once: of two cleanups that name it, the second found it gone.
        if (outcome === 'deleted') outcomes.get(target.store)?.set(target.path, 'absent');
      }
    }
    return results;
  }

  async inspect(cleanup: Cleanup, context: Context): Promise<Inspection> {
    const { target } = cleanup;
    const problem = outsideOfRoot(cleanup);
    if (problem !== undefined) return { ...NOTHING, exists: false, problem };
    const bucket = this.#bucket(target.store);
    if (!target.tree) {
      // A listing, not a HeadObject: that needs no right to read objects, and its errors have a code, so that a
      // missing bucket is told from a missing key. Of all keys that start with a key, itself comes first.
      const { objects } = await bucket.list(target.path, { limit: 1 }, context);
      const found = objects.find(({ key }) => key === target.path);
      return found ? { exists: true, objects: 1, bytes: found.size } : { ...NOTHING, exists: false };
    }
    let [objects, bytes] = [0, 0];
    for (let from: string | undefined, last = false; !last; ) {
      const page = await bucket.list(target.path, { limit: MAX_KEYS, from }, context);
      for (const { key, size } of page.objects) {
        if (!key?.startsWith(target.path)) continue;
        objects += 1;
        bytes += size;
      }
      last = page.next === undefined || page.next === from;
      from = page.next;
    }
    return { exists: objects > 0, objects, bytes };
  }

  async probe(root: string, context: Context): Promise<void> {
    const store = storeOf(root);
    const prefix = root.slice(store.length + 1);
    await this.#bucket(store).list(prefix, { limit: 1, wholeBucket: prefix === '' }, context);
  }

  async close(): Promise<void> {
    this.#connections.close();
    this.#buckets.clear();
  }

  #bucket(store: string): Bucket {
    let bucket = this.#buckets.get(store);
    if (!bucket) {
      const settings = this.#stores.get(store) ?? {};
      bucket = new Bucket(store.slice('s3://'.length), this.#connections.of(settings), settings);
      this.#buckets.set(store, bucket);
    }
    return bucket;
  }
}

/** Why a target must not be touched: the caller has checked it, and a second look costs nothing. */
function outsideOfRoot({ target, root }: Cleanup): string | undefined {
  if (isInside(target.text, root)) return undefined;
  return `${quoteTarget(target.text)} is not inside its root ${quoteTarget(root)}: nothing was touched`;
}

function resultOfKey(outcome: KeyOutcome | undefined): Result {
  if (outcome === 'deleted') return { objects: 1, bytes: null, outcome };
  if (outcome === 'absent') return { ...NOTHING, outcome };
  return resultOf(outcome);
}
