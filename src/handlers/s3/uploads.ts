/**
 * Uploads in parts that were begun and never completed: nobody sees them in a listing of objects, and their parts cost as
 * much as objects do. Those begun before a cleanup fell due go with it; a younger one may be of somebody who writes anew.
 */
import pLimit from 'p-limit';
import { type Context, Stopped, StorageError } from '../contract.ts';
import { MAX_KEYS, type S3Bucket } from './bucket.ts';
import { failureOf, storageErrorOf } from './errors.ts';
import { carrierOf } from './keys.ts';
import { type ListedUpload, listUploads } from './listings.ts';

const ABORTS_IN_FLIGHT = 8;
/** A part that is still being written when its upload is aborted is left behind: looked at again, so often at most. */
const ROUNDS = 5;
/** Fewer keys than these are looked at one by one: MinIO lists uploads by their exact key only. */
const FEW = 16;
/** For how long a listing of a whole root's uploads is good, in ms, for cleanups that were due before it. */
const GOOD_FOR = 60_000;
/** For how long uploads that could not be seen are not asked for, in ms: somebody may grant the right meanwhile. */
const HIDDEN_FOR = 600_000;
/** Pages of such a listing at most. */
const MOST_PAGES = 10;

export interface Due {
  readonly key: string;
  /** On the clock of `performance.now()`. */
  readonly since: number;
}

/** Keys that have uploads; undefined: too many to tell. */
type Keys = ReadonlySet<string> | undefined;

/** Servers tell times in whole seconds, cut off: of both, when something was written and what time it is now. */
const RESOLUTION = 1_000;

/**
 * A moment on a server's clock, in ms since 1970: what is older than it was there before a cleanup fell due. It errs by a
 * second or two, to the side on which things stay.
 * @param since when the cleanup fell due, on the clock of `performance.now()`.
 * @param date the server's clock now; without it, this machine's.
 */
export function dueOnServer(since: number, date: Date | undefined): number {
  return (date?.getTime() ?? Date.now()) - Math.max(0, performance.now() - since) - RESOLUTION;
}

/** The uploads of one bucket. */
export class Uploads {
  readonly #bucket: S3Bucket;
  #known: { readonly at: number; readonly prefix: string; readonly keys: ReadonlySet<string> } | undefined;
  /** A listing of a root that is under way, for all batches that were due before it was begun. */
  #listing: { readonly at: number; readonly prefix: string; readonly keys: Promise<Keys> } | undefined;
  /** Until when the server is not asked, having said that it has no such listing, or that we may not ask for it. */
  #hiddenUntil = Number.NEGATIVE_INFINITY;

  constructor(bucket: S3Bucket) {
    this.#bucket = bucket;
  }

  /**
   * Aborts what was begun under a prefix before `since`. @returns how many.
   * @throws StorageError, Stopped
   */
  async abortBelow(prefix: string, since: number, context: Context): Promise<number> {
    return await this.#abort(prefix, key => key.startsWith(prefix), since, context);
  }

  /**
   * Aborts what was begun of each key before its cleanup fell due.
   * @param root what all keys begin with; may be empty.
   * @returns how many for each key that had any; or why not.
   */
  async abortOf(
    dues: readonly Due[],
    root: string,
    context: Context,
  ): Promise<ReadonlyMap<string, number | StorageError | Stopped>> {
    const results = new Map<string, number | StorageError | Stopped>();
    if (dues.length === 0 || this.#isHidden) return results;
    let some: readonly Due[];
    try {
      const keys =
        dues.length > FEW || this.#isKnown(dues, root) ? await this.#keys(dues, root, context) : undefined;
      some = keys === undefined ? dues : dues.filter(({ key }) => keys.has(key));
    } catch (error) {
      const failure = storageErrorOf(error, `could not list the uploads in ${this.#bucket.where}`);
      return new Map(dues.map(({ key }) => [key, failure]));
    }
    await pLimit(ABORTS_IN_FLIGHT).map(some, async ({ key, since }) => {
      try {
        const aborted = await this.#abort(key, listed => listed === key, since, context);
        if (aborted > 0) results.set(key, aborted);
      } catch (error) {
        results.set(key, storageErrorOf(error, `could not abort the uploads of ${JSON.stringify(key)}`));
      }
    });
    return results;
  }

  get #isHidden(): boolean {
    return performance.now() < this.#hiddenUntil;
  }

  #isKnown(dues: readonly Due[], root: string): boolean {
    const known = this.#known;
    if (known === undefined || known.prefix !== root || performance.now() - known.at > GOOD_FOR) return false;
    return dues.every(({ since }) => since <= known.at);
  }

  /** The keys below a root that may have uploads from before the cleanups fell due; undefined: too many to tell. */
  async #keys(dues: readonly Due[], root: string, context: Context): Promise<Keys> {
    if (this.#isKnown(dues, root)) return this.#known?.keys;
    const other = this.#listing;
    if (other?.prefix === root && dues.every(({ since }) => since <= other.at)) {
      try {
        return await other.keys;
      } catch {
        // It was another batch's, and may have failed of what was that one's own, such as its end.
      }
    }
    const at = performance.now();
    const listing = { at, prefix: root, keys: this.#listKeys(root, at, context) };
    this.#listing = listing;
    try {
      return await listing.keys;
    } finally {
      if (this.#listing === listing) this.#listing = undefined;
    }
  }

  async #listKeys(root: string, at: number, context: Context): Promise<Keys> {
    const keys = new Set<string>();
    let from: string | undefined;
    for (let pages = 1; ; pages++) {
      const page = await this.#list(root, from, context);
      for (const { key } of page.entries) if (key !== undefined) keys.add(key);
      if (page.next === undefined) break;
      if (pages === MOST_PAGES || page.next === from) return undefined;
      from = page.next;
    }
    this.#known = { at, prefix: root, keys };
    return keys;
  }

  async #abort(
    prefix: string,
    isMeant: (key: string) => boolean,
    since: number,
    context: Context,
  ): Promise<number> {
    this.#bucket.assertNamed('a prefix', prefix);
    const aborted = new Set<string>();
    for (let round = 1; ; round++) {
      let found = 0;
      let from: string | undefined;
      do {
        const page = await this.#list(prefix, from, context);
        const old = page.entries.filter(
          ({ key, initiated }) =>
            key !== undefined &&
            isMeant(key) &&
            initiated !== undefined &&
            initiated.getTime() < dueOnServer(since, page.date),
        );
        found += old.length;
        await pLimit(ABORTS_IN_FLIGHT).map(old, async upload => {
          await this.#abortOne(upload, context);
          aborted.add(upload.uploadId);
        });
        if (page.next !== undefined && page.next === from) break;
        from = page.next;
      } while (from !== undefined);
      if (found === 0) return aborted.size;
      if (round === ROUNDS) {
        const message = `${this.#bucket.where} still lists uploads of ${JSON.stringify(prefix)} after they were aborted`;
        throw new StorageError('transient', message);
      }
    }
  }

  async #abortOne({ key = '', uploadId }: ListedUpload, context: Context): Promise<void> {
    const attempted = `could not abort an upload of ${JSON.stringify(key)} in ${this.#bucket.where}`;
    // It stands in the path, where dots would make another key of it.
    if (!['any', 'single'].includes(carrierOf(key))) {
      throw new StorageError('permanent', `${attempted}: no request can carry this key unchanged`);
    }
    try {
      await this.#bucket.abortUpload(key, uploadId, context);
    } catch (error) {
      if (error instanceof Stopped || failureOf(error).kind !== 'gone')
        throw storageErrorOf(error, attempted);
    }
  }

  async #list(prefix: string, from: string | undefined, context: Context) {
    const nothing = { entries: [], next: undefined, date: undefined };
    if (this.#isHidden) return nothing;
    try {
      return await listUploads(this.#bucket, prefix, { limit: MAX_KEYS, from, wholeBucket: true }, context);
    } catch (error) {
      // Who may delete objects need not be allowed to see uploads, and some servers list them for some prefixes only: no
      // row fails for that, whose object is gone. `check` tells of it.
      const { kind, code } = failureOf((error as Error).cause);
      if (code === 'NoSuchBucket' || (kind !== 'permanent' && kind !== 'no_batch')) throw error;
      if (code === 'MethodNotAllowed' || code === 'AccessDenied' || kind === 'no_batch') {
        this.#hiddenUntil = performance.now() + HIDDEN_FOR;
      }
      return nothing;
    }
  }
}
