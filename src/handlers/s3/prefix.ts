/**
 * Deletes every object under a prefix: one lister ahead, a few pages being deleted behind it, never more in memory.
 * Nothing is remembered between runs: what is deleted is gone, so that starting over is resuming.
 */
import {
  type Cleanup,
  type Context,
  type Receipt,
  type Result,
  resultOf,
  Stopped,
  StorageError,
} from '../contract.ts';
import { type Item, MAX_KEYS, type S3Bucket } from './bucket.ts';
import { deleteKeys, type KeyOutcome } from './delete-keys.ts';
import { type ListedObject, listObjects, listVersions, nameOf, type Page } from './listings.ts';
import { type OpenKey, type PagePurge, purgePage } from './purge.ts';
import { dueOnServer, type Uploads } from './uploads.ts';

/** Pages being deleted at the same time: each may be a thousand keys, in one request or in a thousand. */
const PAGES_IN_FLIGHT = 4;

/** Deletes all below the cleanup's prefix, or all versions of its key where it names one. Never throws. */
export async function deletePrefix(
  bucket: S3Bucket,
  uploads: Uploads | undefined,
  cleanup: Cleanup,
  context: Context,
): Promise<Result> {
  return await new PrefixRun(bucket, uploads, cleanup, context).run();
}

interface Sweep {
  pages: number;
  keys: number;
  deleted: number;
  yielded: boolean;
}

class PrefixRun {
  readonly #bucket: S3Bucket;
  readonly #uploads: Uploads | undefined;
  readonly #id: string;
  readonly #prefix: string;
  /** A key of its own, and not what starts with it. */
  readonly #exactly: boolean;
  readonly #since: number | undefined;
  readonly #context: Context;
  readonly #purge: boolean;
  readonly #keepNewer: boolean;
  #objects = 0;
  #bytes = 0;
  /** Everything that is gone: objects, and markers of deletions. */
  #removed = 0;
  #aborted = 0;
  #newer = 0;
  /** Keys that could not be deleted, without ending the work for the others. */
  #failed = 0;
  #firstRetry: string | undefined;
  #firstDead: string | undefined;
  /** Why keys are left for later that were asked for too fast. */
  #slowed: StorageError | undefined;
  /** What ended the work: the daemon stops, an outage, a request that failed as a whole. */
  #interruption: unknown;
  /** Keys that were replaced between listing and deleting them. */
  readonly #replaced = new Set<string>();
  /** What the first page of the sweep before this one held and S3 said was deleted. */
  #gone: ReadonlySet<string> = new Set();

  constructor(bucket: S3Bucket, uploads: Uploads | undefined, cleanup: Cleanup, context: Context) {
    this.#bucket = bucket;
    this.#uploads = uploads;
    this.#id = cleanup.id;
    this.#prefix = cleanup.target.path;
    this.#exactly = !cleanup.target.tree;
    this.#since = cleanup.dueSince;
    this.#context = context;
    this.#purge = bucket.settings.versions === 'purge';
    this.#keepNewer = bucket.settings.newer === 'keep';
  }

  async run(): Promise<Result> {
    for (let sweep = 1; ; sweep++) {
      this.#newer = 0;
      const { pages, keys, deleted, yielded } = await this.#sweep();
      const interruption = this.#interruption;
      // Where keys were refused for now, the message tells which and how many: more than the last one's error.
      const refused =
        interruption instanceof StorageError && interruption.kind === 'transient' && this.#failed > 0;
      const slowed = interruption instanceof StorageError && interruption.kind === 'blocked';
      if (slowed) return this.#later(interruption);
      if (interruption !== undefined && !refused) return resultOf(interruption, this.#receipt());
      if (yielded && (this.#removed > 0 || this.#failed === 0)) {
        return this.#yield(this.#failed > 0 ? this.#failureText() : undefined);
      }
      if (this.#failed > 0) return this.#failure();
      if (this.#slowed !== undefined) {
        if (deleted === 0 || this.#context.shouldYield()) return this.#later(this.#slowed);
        this.#slowed = undefined;
        continue;
      }
      // One page is a snapshot. Over several, a server may page by position and so skip what moved up while others
      // were deleted, or get a new object behind the lister: looked at again, until a sweep finds nothing.
      if (keys === 0 || (sweep === 1 && pages === 1)) break;
    }
    return await this.#end();
  }

  /** All objects are gone: what is left are uploads that were never completed. */
  async #end(): Promise<Result> {
    try {
      if (this.#since !== undefined && this.#uploads !== undefined && !this.#exactly) {
        this.#aborted = await this.#uploads.abortBelow(this.#prefix, this.#since, this.#context);
      }
    } catch (error) {
      return resultOf(error, this.#receipt());
    }
    const notes = [
      this.#aborted > 0 ? `${this.#aborted} incomplete uploads were aborted` : '',
      this.#newer > 0 ? `${this.#newer} objects stay that were written after it fell due` : '',
    ].filter(note => note !== '');
    const outcome = this.#removed > 0 || this.#aborted > 0 ? 'deleted' : 'absent';
    return { ...this.#receipt(), outcome, ...(notes.length > 0 ? { note: notes.join('; ') } : {}) };
  }

  /** The store asked for less: that is nobody's fault, and no attempt. */
  #later(reason: StorageError): Result {
    return this.#removed > 0 ? this.#yield(reason.message) : resultOf(reason, this.#receipt());
  }

  #yield(note: string | undefined): Result {
    const progressed = this.#removed > 0;
    return { ...this.#receipt(), outcome: 'yielded', progressed, ...(note === undefined ? {} : { note }) };
  }

  /** Lists from the beginning to the end, deleting what it lists. */
  async #sweep(): Promise<Sweep> {
    const inFlight = new Set<Promise<void>>();
    const done: Sweep = { pages: 0, keys: 0, deleted: 0, yielded: false };
    const before = this.#removed;
    let from: string | undefined;
    let last: Page<ListedObject> | undefined;
    let open: OpenKey | undefined;
    try {
      for (;;) {
        const list = this.#purge ? listVersions : listObjects;
        const page = await list(this.#bucket, this.#prefix, { limit: MAX_KEYS, from }, this.#context);
        this.#assertProgress(page, last, from);
        const entries = this.#meant(page);
        const isFirst = done.pages === 0;
        // Of one key's versions, once other keys are listed there are no more.
        const beyond =
          this.#exactly && page.entries.some(({ key }) => key !== undefined && key !== this.#prefix);
        const next = beyond ? undefined : page.next;
        const remove = (listed: readonly ListedObject[]) => this.#delete(listed);
        const work: PagePurge = this.#purge
          ? purgePage(entries, { before: open, next }, remove)
          : { gone: remove(entries), open: undefined };
        open = work.open;
        const deletion = work.gone
          .then(gone => {
            if (isFirst) this.#gone = gone;
          })
          .catch(error => {
            this.#interruption ??= error;
          })
          .finally(() => inFlight.delete(deletion));
        inFlight.add(deletion);
        done.pages += 1;
        done.keys += entries.length;
        if (next === undefined) break;
        if (inFlight.size >= PAGES_IN_FLIGHT) await Promise.race(inFlight);
        if (this.#interruption !== undefined) break;
        if (this.#context.shouldYield()) {
          done.yielded = true;
          break;
        }
        [from, last] = [next, page];
      }
    } catch (error) {
      this.#interruption ??= error;
    }
    await Promise.all(inFlight);
    done.deleted = this.#removed - before;
    return done;
  }

  /** What of a page is to be deleted. A server may take a prefix for less than it is: the rest is none of this cleanup's. */
  #meant({ entries, date }: Page<ListedObject>): ListedObject[] {
    const due = this.#since === undefined ? Number.NEGATIVE_INFINITY : dueOnServer(this.#since, date);
    return entries.filter(({ key, raw, modified }) => {
      if (key === undefined) {
        this.#fail(
          raw,
          new StorageError(
            'permanent',
            'its name is not UTF-8, or the server does not tell it, and so no request can carry it',
          ),
        );
        return false;
      }
      if (this.#exactly ? key !== this.#prefix : !key.startsWith(this.#prefix)) return false;
      if (!this.#keepNewer || (modified !== undefined && modified.getTime() <= due)) return true;
      this.#newer += 1;
      return false;
    });
  }

  /** Without this, a server that lists what it says is deleted, or the same page for ever, would be asked for ever. */
  #assertProgress(
    page: Page<ListedObject>,
    before: Page<ListedObject> | undefined,
    from: string | undefined,
  ): void {
    const still =
      before === undefined ? page.entries.find(entry => this.#gone.has(nameOf(entry))) : undefined;
    if (still) {
      throw new StorageError(
        'transient',
        `${this.#bucket.where} still lists ${JSON.stringify(still.raw)} after it said that it was deleted: either something writes it anew, or the server's listings lag behind`,
      );
    }
    const [first] = page.entries;
    const [firstBefore] = before?.entries ?? [];
    const same = first !== undefined && firstBefore !== undefined && nameOf(first) === nameOf(firstBefore);
    if (page.next !== undefined && (page.next === from || same)) {
      throw new StorageError(
        'transient',
        `${this.#bucket.where} lists the same page of ${JSON.stringify(this.#prefix)} again and again`,
      );
    }
  }

  /** Deletes what was listed. @returns what is gone, by `nameOf`. */
  async #delete(entries: readonly ListedObject[]): Promise<ReadonlySet<string>> {
    const listed = new Map<Item, ListedObject>();
    for (const entry of entries) {
      const { key = '', versionId, etag } = entry;
      listed.set({ key, versionId, etag: this.#keepNewer ? etag : undefined }, entry);
    }
    const outcomes = await deleteKeys(this.#bucket, listed.keys(), this.#context);
    const gone = new Set<string>();
    let left: StorageError | undefined;
    for (const [item, outcome] of outcomes) {
      const entry = listed.get(item) as ListedObject;
      if (outcome === 'deleted') {
        this.#removed += 1;
        if (!entry.isMarker) this.#objects += 1;
        this.#bytes += entry.size;
      }
      if (outcome === 'deleted' || outcome === 'absent') gone.add(nameOf(entry));
      else {
        const later = this.#settle(item.key, outcome);
        left ??= later;
      }
    }
    // A page of which nothing could be deleted just now: asking on, page by page, would only make matters worse.
    if (left && gone.size === 0) this.#interruption ??= left;
    this.#context.progress(this.#id, this.#receipt());
    return gone;
  }

  /** Takes note of a key that is not gone. @returns why, where it may go later. */
  #settle(key: string, outcome: Exclude<KeyOutcome, 'deleted' | 'absent'>): StorageError | undefined {
    if (outcome === 'replaced') {
      this.#newer += 1;
      const again = this.#replaced.has(key);
      this.#replaced.add(key);
      if (again) this.#fail(key, new StorageError('transient', 'it is replaced again and again'));
      return undefined;
    }
    if (outcome instanceof Stopped || outcome.kind === 'unavailable') {
      this.#interruption ??= outcome;
      return undefined;
    }
    if (outcome.kind === 'blocked') this.#slowed ??= outcome;
    else this.#fail(key, outcome);
    return outcome.kind === 'permanent' ? undefined : outcome;
  }

  #fail(key: string, error: StorageError): void {
    this.#failed += 1;
    const first = `${JSON.stringify(key)}: ${error.message}`;
    if (error.kind === 'permanent') this.#firstDead ??= first;
    else this.#firstRetry ??= first;
  }

  /** Dead only if no retry could mend any of it. */
  #failure(): Result {
    const outcome = this.#firstRetry === undefined ? 'dead' : 'retry';
    return { ...this.#receipt(), outcome, error: this.#failureText() };
  }

  #failureText(): string {
    const first = this.#firstRetry ?? this.#firstDead ?? '';
    const many = `${this.#failed} ${this.#failed === 1 ? 'object' : 'objects'}`;
    return `${many} under ${JSON.stringify(this.#prefix)} could not be deleted (${this.#objects} were); the first: ${first}`;
  }

  #receipt(): Receipt {
    return { objects: this.#objects, bytes: this.#bytes };
  }
}
