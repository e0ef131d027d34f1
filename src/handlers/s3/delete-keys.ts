/** Deletes a set of keys of one bucket, or of versions of them, and tells what became of each. */
import pLimit from 'p-limit';
import { type Context, Stopped, StorageError } from '../contract.ts';
import { type Item, MAX_KEYS, type S3Bucket } from './bucket.ts';
import { failureOf, keyError, meaningOfKeyError, storageErrorOf } from './errors.ts';
import { carrierOf } from './keys.ts';
import { listObjects } from './listings.ts';

/**
 * `deleted`, as far as S3 tells; `absent`, where the server says so; `replaced`, where something else stands there by
 * now; or why not.
 */
export type KeyOutcome = 'deleted' | 'absent' | 'replaced' | StorageError | Stopped;

/** DeleteObject calls that stand in line at the context, so that they do not push others out of it. */
const SINGLES_IN_FLIGHT = 16;
/** How often keys that were answered SlowDown are sent again before they are left for later. */
const SLOW_WAVES = 4;
/** How often a key may be answered InternalError before it is asked whether it is there at all. */
const SHAKY = 2;
/** Most keys that are asked about so: where more fail, it is the server. */
const MOST_DOUBTED = 100;

/** Deletes items, each of which stands for another key or version. Never throws. */
export async function deleteKeys(
  bucket: S3Bucket,
  items: Iterable<Item>,
  context: Context,
): Promise<ReadonlyMap<Item, KeyOutcome>> {
  const run = new Deletion(bucket, context);
  await run.delete([...items]);
  return run.outcomes;
}

const messageFrom = (error: unknown) => (error instanceof Error ? error.message : String(error));

class Deletion {
  readonly outcomes = new Map<Item, KeyOutcome>();
  readonly #bucket: S3Bucket;
  readonly #context: Context;
  readonly #attempted: string;
  /** What every further request would meet as well: the end of the work, an outage, a bucket that is not there. */
  #end: StorageError | Stopped | undefined;
  /** Keys to send again: the server asked for less, or stumbled. */
  #again: Item[] = [];
  readonly #stumbled = new Map<Item, number>();
  /** Whether anything at all came of a wave. */
  #gotOn = false;

  constructor(bucket: S3Bucket, context: Context) {
    this.#bucket = bucket;
    this.#context = context;
    this.#attempted = `could not delete from ${bucket.where}`;
  }

  async delete(items: readonly Item[]): Promise<void> {
    let wave = items;
    for (let waves = 0; wave.length > 0 && waves <= SLOW_WAVES; waves++) {
      this.#again = [];
      this.#gotOn = false;
      await this.#send(wave);
      wave = this.#end === undefined && this.#gotOn ? this.#again : [];
    }
    await this.#doubt();
  }

  async #send(items: readonly Item[]): Promise<void> {
    const batch: Item[] = [];
    const singles: Item[] = [];
    const { deleteMode, batchMissing, budget } = this.#bucket;
    const single = deleteMode === 'single' || batchMissing;
    for (const item of items) {
      const carrier = carrierOf(item.key);
      if (carrier === 'none' || (carrier === 'batch' && single)) this.#refuse(item, carrier);
      else if (carrier === 'single' || single) singles.push(item);
      else batch.push(item);
    }
    const chunks: Item[][] = [];
    const size = budget.chunk(MAX_KEYS);
    for (let from = 0; from < batch.length; from += size) chunks.push(batch.slice(from, from + size));
    await Promise.all([...chunks.map(chunk => this.#deleteBatch(chunk)), this.#deleteSingles(singles)]);
  }

  #refuse(item: Item, carrier: 'none' | 'batch'): void {
    const why =
      item.key === ''
        ? 'a key is never empty'
        : carrier === 'batch'
          ? "a key with '.' or '..' segments, or of slashes only, is safe in a DeleteObjects alone, and this server has none"
          : 'no request can carry this key unchanged';
    const message = `${this.#attempted}: refused before any request: ${why}; delete the object by other means`;
    this.#settle([item], new StorageError('permanent', message));
  }

  async #deleteBatch(items: readonly Item[]): Promise<void> {
    const { budget } = this.#bucket;
    let sentAt = 0;
    let errors: readonly ErrorEntry[];
    try {
      sentAt = await budget.take(items.length, this.#context);
      if (this.#end) return this.#settle(items, this.#end);
      ({ Errors: errors = [] } = await this.#bucket.deleteObjects(items, this.#context));
    } catch (error) {
      if (failureOf(error).kind === 'slow') {
        budget.answered({ sentAt, keys: items.length, slow: items.length });
      }
      return await this.#batchFailed(items, error);
    }
    const failed = match(items, errors);
    if (failed === undefined) return await this.#halve(items);
    if (failed.size === 0) return this.#settle(items, 'deleted');
    let slow = 0;
    for (const item of items) {
      const error = failed.get(item);
      if (!error) {
        this.#settle([item], 'deleted');
        continue;
      }
      const code = error.Code ?? 'an error without a code';
      const { kind } = meaningOfKeyError(code);
      if (kind === 'slow') slow += 1;
      if (kind === 'gone') this.#settle([item], 'absent');
      else if (kind === 'replaced') this.#settle([item], 'replaced');
      else this.#keyFailed(item, code, error.Message ?? '');
    }
    budget.answered({ sentAt, keys: items.length, slow });
  }

  async #batchFailed(items: readonly Item[], error: unknown): Promise<void> {
    if (error instanceof Stopped || error instanceof StorageError) return this.#endWith(items, error);
    const { kind, everyKey } = failureOf(error);
    if (kind === 'slow') {
      this.#again.push(...items);
      return this.#settle(items, storageErrorOf(error, this.#attempted));
    }
    if ((kind === 'no_batch' || kind === 'other_checksum') && this.#bucket.deleteMode === 'auto') {
      this.#bucket.batchMissing = true;
      const sendable = items.filter(({ key }) => carrierOf(key) === 'any');
      for (const item of items) if (carrierOf(item.key) !== 'any') this.#refuse(item, 'batch');
      return await this.#deleteSingles(sendable);
    }
    // One key may spoil a batch for all: locked (versitygw), too long, not liked. Its siblings must not die of it.
    if (kind === 'permanent' && !everyKey && items.length > 1) return await this.#halve(items);
    const failure = storageErrorOf(error, this.#attempted);
    if (everyKey) this.#endWith(items, failure);
    else this.#settle(items, failure);
  }

  async #halve(items: readonly Item[]): Promise<void> {
    const middle = Math.ceil(items.length / 2);
    await this.#deleteBatch(items.slice(0, middle));
    await this.#deleteBatch(items.slice(middle));
  }

  async #deleteSingles(items: readonly Item[]): Promise<void> {
    await pLimit(SINGLES_IN_FLIGHT).map(items, item => this.#deleteSingle(item));
  }

  async #deleteSingle(item: Item): Promise<void> {
    if (this.#end) return this.#settle([item], this.#end);
    const { budget } = this.#bucket;
    let sentAt = 0;
    try {
      sentAt = await budget.take(1, this.#context);
      await this.#bucket.deleteObject(item, this.#context);
      this.#settle([item], 'deleted');
      budget.answered({ sentAt, keys: 1, slow: 0 });
    } catch (error) {
      const stop = error instanceof Stopped || error instanceof StorageError;
      const { kind, everyKey, code } = failureOf(error);
      if (stop) this.#endWith([item], error);
      else if (kind === 'gone') this.#settle([item], 'absent');
      else if (kind === 'replaced') this.#settle([item], 'replaced');
      else if (kind === 'slow') {
        budget.answered({ sentAt, keys: 1, slow: 1 });
        this.#again.push(item);
        this.#settle([item], storageErrorOf(error, this.#attempted));
      }
      // Of a DeleteObject it is the key's own error, as it is inside a batch's answer: one key that a server stumbles
      // over must not pass for an outage.
      else if (code === 'InternalError') this.#keyFailed(item, code, messageFrom(error));
      else if (everyKey) this.#endWith([item], storageErrorOf(error, this.#attempted));
      else this.#settle([item], storageErrorOf(error, this.#attempted));
    }
  }

  /** One key's own error: sent again where the server asks for less, and once where it stumbles. */
  #keyFailed(item: Item, code: string, message: string): void {
    this.#settle([item], keyError(code, message, this.#attempted));
    if (meaningOfKeyError(code).kind === 'slow') this.#again.push(item);
    if (code !== 'InternalError') return;
    const times = (this.#stumbled.get(item) ?? 0) + 1;
    this.#stumbled.set(item, times);
    // It is an answer of its own: the wave got on.
    this.#gotOn = true;
    if (times < SHAKY) this.#again.push(item);
  }

  /**
   * Some servers answer InternalError for a key that is not there, again and again. A HEAD tells, but its 404 has no
   * code: it may be the bucket that is missing. A listing's error has one.
   */
  async #doubt(): Promise<void> {
    const doubted = [...this.#stumbled]
      .filter(([item, times]) => times >= SHAKY && this.outcomes.get(item) instanceof StorageError)
      .slice(0, MOST_DOUBTED);
    await pLimit(SINGLES_IN_FLIGHT).map(doubted, async ([item]) => {
      try {
        if (this.#end || carrierOf(item.key) === 'batch') return;
        if (!(await this.#bucket.isMissing(item, this.#context))) return;
        const { entries } = await listObjects(this.#bucket, item.key, { limit: 1 }, this.#context);
        const there = item.versionId === undefined && entries.some(({ key }) => key === item.key);
        if (!there) this.#settle([item], 'absent');
      } catch {
        // It is not known to be gone: what it failed with stands.
      }
    });
  }

  #endWith(items: readonly Item[], error: StorageError | Stopped): void {
    this.#end ??= error;
    this.#settle(items, error);
  }

  #settle(items: readonly Item[], outcome: KeyOutcome): void {
    if (typeof outcome === 'string') this.#gotOn = true;
    for (const item of items) this.outcomes.set(item, outcome);
  }
}

interface ErrorEntry {
  readonly Key?: string | undefined;
  readonly VersionId?: string | undefined;
  readonly Code?: string | undefined;
  readonly Message?: string | undefined;
}

/**
 * Which error is whose; undefined where it cannot be told. Some servers change the key that they echo, e.g. without its
 * leading slash, or leave its version out. Which key failed, then? Asked in ever smaller batches, a single key's error
 * is that key's; what is deleted already can be deleted again.
 */
function match(
  items: readonly Item[],
  errors: readonly ErrorEntry[],
): ReadonlyMap<Item, ErrorEntry> | undefined {
  const matched = new Map<Item, ErrorEntry>();
  if (errors.length === 0) return matched;
  const [only] = items;
  const [first] = errors;
  if (items.length === 1 && only && first) return matched.set(only, first);
  const byKey = Map.groupBy(items, ({ key }) => key);
  for (const error of errors) {
    const named = byKey.get(error.Key ?? '') ?? [];
    const exact = named.find(({ versionId }) => versionId === (error.VersionId || undefined));
    const item = exact ?? (named.length === 1 && !error.VersionId ? named[0] : undefined);
    // Two errors of one key: one of them is another's, of which the server makes the same.
    if (item === undefined || matched.has(item)) return undefined;
    matched.set(item, error);
  }
  return matched;
}
