/** Deletes a set of keys of one bucket and tells what became of each. */
import pLimit from 'p-limit';
import { type Context, Stopped, StorageError } from '../contract.ts';
import { type Bucket, MAX_KEYS } from './bucket.ts';
import { failureOf, keyError, meaningOfKeyError, storageErrorOf } from './errors.ts';
import { carrierOf } from './keys.ts';

/** `deleted`, as far as S3 tells; `absent`, where the server says so; or why not. */
export type KeyOutcome = 'deleted' | 'absent' | StorageError | Stopped;

/** DeleteObject calls that stand in line at the context, so that they do not push others out of it. */
const SINGLES_IN_FLIGHT = 16;

/** Deletes keys, each once however often it is named. Never throws. */
export async function deleteKeys(
  bucket: Bucket,
  keys: Iterable<string>,
  context: Context,
): Promise<ReadonlyMap<string, KeyOutcome>> {
  const run = new Deletion(bucket, context);
  const batch: string[] = [];
  const singles: string[] = [];
  const single = bucket.deleteMode === 'single' || bucket.batchMissing;
  for (const key of new Set(keys)) {
    const carrier = carrierOf(key);
    if (carrier === 'none' || (carrier === 'batch' && single)) run.refuse(key, carrier);
    else if (carrier === 'single' || single) singles.push(key);
    else batch.push(key);
  }
  const chunks: string[][] = [];
  for (let from = 0; from < batch.length; from += MAX_KEYS) chunks.push(batch.slice(from, from + MAX_KEYS));
  await Promise.all([...chunks.map(chunk => run.deleteBatch(chunk)), run.deleteSingles(singles)]);
  return run.outcomes;
}

const messageFrom = (error: unknown) => (error instanceof Error ? error.message : String(error));

class Deletion {
  readonly outcomes = new Map<string, KeyOutcome>();
  readonly #bucket: Bucket;
  readonly #context: Context;
  readonly #attempted: string;
  /** What every further request would meet as well: the end of the work, an outage, a bucket that is not there. */
  #end: StorageError | Stopped | undefined;

  constructor(bucket: Bucket, context: Context) {
    this.#bucket = bucket;
    this.#context = context;
    this.#attempted = `could not delete from ${bucket.where}`;
  }

  refuse(key: string, carrier: 'none' | 'batch'): void {
    const why =
      key === ''
        ? 'a key is never empty'
        : carrier === 'batch'
          ? "a key with '.' or '..' segments, or of slashes only, is safe in a DeleteObjects alone, and this server has none"
          : 'no request can carry this key unchanged';
    const message = `${this.#attempted}: refused before any request: ${why}; delete the object by other means`;
    this.outcomes.set(key, new StorageError('permanent', message));
  }

  async deleteBatch(keys: readonly string[]): Promise<void> {
    if (this.#end) return this.#settle(keys, this.#end);
    let errors: readonly {
      Key?: string | undefined;
      Code?: string | undefined;
      Message?: string | undefined;
    }[];
    try {
      ({ Errors: errors = [] } = await this.#bucket.deleteObjects(keys, this.#context));
    } catch (error) {
      return await this.#batchFailed(keys, error);
    }
    const asked = new Set(keys);
    const failed = new Map(errors.map(error => [keys.length === 1 ? keys[0] : error.Key, error]));
    // Some servers change the key that they echo, e.g. without its leading slash. Which key failed, then? Asked in
    // ever smaller batches, a single key's error is that key's; what is deleted already can be deleted again.
    if ([...failed.keys()].some(key => key === undefined || !asked.has(key))) return await this.#halve(keys);
    for (const key of keys) {
      const error = failed.get(key);
      if (!error) {
        this.outcomes.set(key, 'deleted');
        continue;
      }
      const code = error.Code ?? 'an error without a code';
      const gone = meaningOfKeyError(code).kind === 'gone';
      this.outcomes.set(key, gone ? 'absent' : keyError(code, error.Message ?? '', this.#attempted));
    }
  }

  async #batchFailed(keys: readonly string[], error: unknown): Promise<void> {
    if (error instanceof Stopped || error instanceof StorageError) return this.#endWith(keys, error);
    const { kind, everyKey } = failureOf(error);
    if (kind === 'no_batch' && this.#bucket.deleteMode === 'auto') {
      this.#bucket.batchMissing = true;
      const sendable = keys.filter(key => carrierOf(key) === 'any');
      for (const key of keys) if (carrierOf(key) !== 'any') this.refuse(key, 'batch');
      return await this.deleteSingles(sendable);
    }
    // One key may spoil a batch for all: locked (versitygw), too long, not liked. Its siblings must not die of it.
    if (kind === 'permanent' && !everyKey && keys.length > 1) return await this.#halve(keys);
    const failure = storageErrorOf(error, this.#attempted);
    if (everyKey) this.#endWith(keys, failure);
    else this.#settle(keys, failure);
  }

  async #halve(keys: readonly string[]): Promise<void> {
    const middle = Math.ceil(keys.length / 2);
    await this.deleteBatch(keys.slice(0, middle));
    await this.deleteBatch(keys.slice(middle));
  }

  async deleteSingles(keys: readonly string[]): Promise<void> {
    await pLimit(SINGLES_IN_FLIGHT).map(keys, key => this.#deleteSingle(key));
  }

  async #deleteSingle(key: string): Promise<void> {
    if (this.#end) return this.#settle([key], this.#end);
    try {
      await this.#bucket.deleteObject(key, this.#context);
      this.outcomes.set(key, 'deleted');
    } catch (error) {
      const stop = error instanceof Stopped || error instanceof StorageError;
      const { kind, everyKey, code } = failureOf(error);
      if (!stop && kind === 'gone') this.outcomes.set(key, 'absent');
      // Of a DeleteObject it is the key's own error, as it is inside a batch's answer: one key that a server stumbles
      // over must not pass for an outage.
      else if (code === 'InternalError')
        this.#settle([key], keyError(code, messageFrom(error), this.#attempted));
      else if (stop || everyKey) this.#endWith([key], storageErrorOf(error, this.#attempted));
      else this.#settle([key], storageErrorOf(error, this.#attempted));
    }
  }

  #endWith(keys: readonly string[], error: StorageError | Stopped): void {
    this.#end ??= error;
    this.#settle(keys, error);
  }

  #settle(keys: readonly string[], error: StorageError | Stopped): void {
    for (const key of keys) this.outcomes.set(key, error);
  }
}
