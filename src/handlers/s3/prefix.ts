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
import { type Bucket, type ListedPage, MAX_KEYS } from './bucket.ts';
import { deleteKeys } from './delete-keys.ts';

/** Pages being deleted at the same time: each may be a thousand keys, in one request or in a thousand. */
const PAGES_IN_FLIGHT = 4;

/** Deletes all below the cleanup's prefix. Never throws. */
export async function deletePrefix(bucket: Bucket, cleanup: Cleanup, context: Context): Promise<Result> {
  return await new PrefixRun(bucket, cleanup, context).run();
}

class PrefixRun {
  readonly #bucket: Bucket;
  readonly #id: string;
  readonly #prefix: string;
  readonly #context: Context;
  #objects = 0;
  #bytes = 0;
  /** Keys that could not be deleted, without ending the work for the others. */
  #failed = 0;
  #firstRetry: string | undefined;
  #firstDead: string | undefined;
  /** What ended the work: the daemon stops, an outage, a request that failed as a whole. */
  #interruption: unknown;
  /** What the first page of the sweep before this one held and S3 said was deleted. */
  #gone: ReadonlySet<string> = new Set();

  constructor(bucket: Bucket, cleanup: Cleanup, context: Context) {
    this.#bucket = bucket;
    this.#id = cleanup.id;
    this.#prefix = cleanup.target.path;
    this.#context = context;
  }

  async run(): Promise<Result> {
    for (let sweep = 1; ; sweep++) {
      const { pages, keys, yielded } = await this.#sweep();
      const interruption = this.#interruption;
      // Where keys were refused for now, the message tells which and how many: more than the last one's error.
      const refused =
        interruption instanceof StorageError && interruption.kind === 'transient' && this.#failed > 0;
      if (interruption !== undefined && !refused) return resultOf(interruption, this.#receipt());
      if (yielded && (this.#objects > 0 || this.#failed === 0)) {
        const note = this.#failed > 0 ? { note: this.#failureText() } : {};
        return { ...this.#receipt(), outcome: 'yielded', ...note };
      }
      if (this.#failed > 0) return this.#failure();
      // One page is a snapshot. Over several, a server may page by position and so skip what moved up while others
      // were deleted, or get a new object behind the lister: looked at again, until a sweep finds nothing.
      if (keys === 0 || (sweep === 1 && pages === 1)) break;
    }
    return { ...this.#receipt(), outcome: this.#objects > 0 ? 'deleted' : 'absent' };
  }

  /** Lists from the beginning to the end, deleting what it lists. */
  async #sweep(): Promise<{ pages: number; keys: number; yielded: boolean }> {
    const inFlight = new Set<Promise<void>>();
    const done = { pages: 0, keys: 0, yielded: false };
    let from: string | undefined;
    let before: ListedPage | undefined;
    try {
      for (;;) {
        const page = await this.#bucket.list(this.#prefix, { limit: MAX_KEYS, from }, this.#context);
        this.#assertProgress(page, before, from);
        const deletion = this.#deletePage(page, done.pages === 0)
          .catch(error => {
            this.#interruption ??= error;
          })
          .finally(() => inFlight.delete(deletion));
        inFlight.add(deletion);
        done.pages += 1;
        done.keys += page.objects.filter(({ key }) => key?.startsWith(this.#prefix)).length;
        if (page.next === undefined) break;
        if (inFlight.size >= PAGES_IN_FLIGHT) await Promise.race(inFlight);
        if (this.#interruption !== undefined) break;
        if (this.#context.shouldYield()) {
          done.yielded = true;
          break;
        }
        [from, before] = [page.next, page];
      }
    } catch (error) {
      this.#interruption ??= error;
    }
    await Promise.all(inFlight);
    return done;
  }

  /** Without this, a server that lists what it says is deleted, or the same page for ever, would be asked for ever. */
  #assertProgress(page: ListedPage, before: ListedPage | undefined, from: string | undefined): void {
    const still = before === undefined ? page.objects.find(({ raw }) => this.#gone.has(raw)) : undefined;
    if (still) {
      throw new StorageError(
        'transient',
        `${this.#bucket.where} still lists ${JSON.stringify(still.raw)} after it said that it was deleted: either something writes it anew, or the server's listings lag behind`,
      );
    }
    const [first] = page.objects;
    if (page.next !== undefined && (page.next === from || (first && first.raw === before?.objects[0]?.raw))) {
      throw new StorageError(
        'transient',
        `${this.#bucket.where} lists the same page of ${JSON.stringify(this.#prefix)} again and again`,
      );
    }
  }

  /** Deletes what a page lists. */
  async #deletePage(page: ListedPage, isFirst: boolean): Promise<void> {
    const sizes = new Map<string, number>();
    const raws = new Map<string, string>();
    for (const { key, raw, size } of page.objects) {
      if (key === undefined)
        this.#fail(raw, new StorageError('permanent', 'its name is not UTF-8, which no request can carry'));
      // A server may take a prefix for less than it is. What does not start with it is none of this cleanup's.
      else if (key.startsWith(this.#prefix)) {
        sizes.set(key, size);
        raws.set(key, raw);
      }
    }
    const outcomes = await deleteKeys(this.#bucket, sizes.keys(), this.#context);
    const gone = new Set<string>();
    let retried: StorageError | undefined;
    for (const [key, outcome] of outcomes) {
      if (outcome === 'deleted') {
        this.#objects += 1;
        this.#bytes += sizes.get(key) ?? 0;
      }
      if (outcome === 'deleted' || outcome === 'absent') gone.add(raws.get(key) ?? key);
      else if (outcome instanceof Stopped || outcome.kind === 'unavailable') this.#interruption ??= outcome;
      else {
        this.#fail(key, outcome);
        if (outcome.kind === 'transient') retried ??= outcome;
      }
    }
    if (isFirst) this.#gone = gone;
    // A page of which nothing could be deleted just now: asking on, page by page, would only make matters worse.
    if (retried && gone.size === 0) this.#interruption ??= retried;
    this.#context.progress(this.#id, this.#receipt());
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
