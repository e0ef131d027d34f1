/** The handler of `s3:` targets: objects in batches, prefixes page by page. */

import { isInside, quoteTarget, storeOf } from '../../target.ts';
import {
  type Cleanup,
  type Context,
  type Handler,
  type Inspection,
  NOTHING,
  type Result,
} from '../contract.ts';
import { MAX_KEYS, S3Bucket } from './bucket.ts';
import { Connections, type S3StoreSettings } from './clients.ts';
import { listObjects, listUploads, listVersions } from './listings.ts';
import { deletePrefix } from './prefix.ts';
import { deleteRows } from './rows.ts';
import { Uploads } from './uploads.ts';

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
  readonly #buckets = new Map<string, { readonly bucket: S3Bucket; readonly uploads: Uploads | undefined }>();

  constructor({ stores, storageTimeout }: S3HandlerOptions) {
    this.#stores = stores;
    this.#connections = new Connections(storageTimeout);
  }

  async delete(batch: readonly Cleanup[], context: Context): Promise<readonly Result[]> {
    const results = new Map<Cleanup, Result>();
    for (const cleanup of batch) {
      const error = outsideOfRoot(cleanup);
      if (error !== undefined) results.set(cleanup, { ...NOTHING, outcome: 'dead', error });
    }
    // A batch is of one store; grouped all the same, so that a key never meets another bucket.
    const inside = batch.filter(cleanup => !results.has(cleanup));
    const single = inside.filter(({ target }) => !target.tree);
    for (const [store, rows] of Map.groupBy(single, ({ target }) => target.store)) {
      const { bucket, uploads } = this.#open(store);
      const became = await deleteRows(bucket, uploads, rows, context);
      for (const [n, row] of rows.entries()) results.set(row, became[n] as Result);
    }
    for (const cleanup of inside.filter(({ target }) => target.tree)) {
      const { bucket, uploads } = this.#open(cleanup.target.store);
      results.set(cleanup, await deletePrefix(bucket, uploads, cleanup, context));
    }
    return batch.map(cleanup => results.get(cleanup) as Result);
  }

  async inspect(cleanup: Cleanup, context: Context): Promise<Inspection> {
    const { target } = cleanup;
    const problem = outsideOfRoot(cleanup);
    if (problem !== undefined) return { ...NOTHING, exists: false, problem };
    const { bucket } = this.#open(target.store);
    const purge = bucket.settings.versions === 'purge';
    if (!target.tree && !purge) {
      // A listing, not a HeadObject: that needs no right to read objects, and its errors have a code, so that a
      // missing bucket is told from a missing key. Of all keys that start with a key, itself comes first.
      const { entries } = await listObjects(bucket, target.path, { limit: 1 }, context);
      const found = entries.find(({ key }) => key === target.path);
      return found ? { exists: true, objects: 1, bytes: found.size } : { ...NOTHING, exists: false };
    }
    const list = purge ? listVersions : listObjects;
    let [objects, bytes, markers] = [0, 0, 0];
    for (let from: string | undefined, last = false; !last; ) {
      const page = await list(bucket, target.path, { limit: MAX_KEYS, from }, context);
      let beyond = false;
      for (const { key, size, isMarker } of page.entries) {
        beyond ||= !target.tree && key !== target.path;
        if (target.tree ? !key?.startsWith(target.path) : key !== target.path) continue;
        if (isMarker) markers += 1;
        else objects += 1;
        bytes += size;
      }
      last = beyond || page.next === undefined || page.next === from;
      from = page.next;
    }
    return { exists: objects + markers > 0, objects, bytes };
  }

  async probe(root: string, context: Context): Promise<void> {
    const { bucket, prefix } = this.#rootOf(root);
    await listObjects(bucket, prefix, { limit: 1, wholeBucket: true }, context);
    if (bucket.settings.versions === 'purge') {
      await listVersions(bucket, prefix, { limit: 1, wholeBucket: true }, context);
    }
  }

  async advise(root: string, context: Context): Promise<readonly string[]> {
    const { bucket, uploads, prefix } = this.#rootOf(root);
    const advice: string[] = [];
    try {
      const versioning = await bucket.versioning(context);
      if (versioning !== 'unversioned' && bucket.settings.versions !== 'purge') {
        const frees =
          versioning === 'enabled' ? 'deletes here free no space' : 'deletes here leave older versions';
        advice.push(
          `its bucket has versioning ${versioning}, and the root says \`versions: keep\`: ${frees}; set \`versions: purge\`, or a lifecycle rule on the bucket`,
        );
      }
    } catch (error) {
      advice.push(`${(error as Error).message}: where it is, deletes here may free no space`);
    }
    if (uploads === undefined) return advice;
    try {
      await listUploads(bucket, prefix, { limit: 1, wholeBucket: true }, context);
    } catch (error) {
      advice.push(`uploads that were never completed stay here: ${(error as Error).message}`);
    }
    return advice;
  }

  async close(): Promise<void> {
    this.#connections.close();
    this.#buckets.clear();
  }

  #rootOf(root: string) {
    const store = storeOf(root);
    return { ...this.#open(store), prefix: root.slice(store.length + 1) };
  }

  #open(store: string) {
    let opened = this.#buckets.get(store);
    if (!opened) {
      const settings = this.#stores.get(store) ?? {};
      const bucket = new S3Bucket(store.slice('s3://'.length), this.#connections.of(settings), settings);
      opened = { bucket, uploads: settings.uploads === 'keep' ? undefined : new Uploads(bucket) };
      this.#buckets.set(store, opened);
    }
    return opened;
  }
}

/** Why a target must not be touched: the caller has checked it, and a second look costs nothing. */
function outsideOfRoot({ target, root }: Cleanup): string | undefined {
  if (isInside(target.text, root)) return undefined;
  return `${quoteTarget(target.text)} is not inside its root ${quoteTarget(root)}: nothing was touched`;
}
