/** What the server stores: buckets in memory, keys in the order of S3, which is that of their UTF-8 bytes. */
import { createHash } from 'node:crypto';
import { S3Error } from './errors.ts';

export interface StoredObject {
  readonly key: string;
  readonly body: Uint8Array;
  readonly etag: string;
  readonly modified: Date;
}

/** A version of an object, or the marker of its deletion. */
export interface StoredVersion extends StoredObject {
  /** `null`, in letters, for what was written while the bucket was not versioned. */
  readonly versionId: string;
  readonly isMarker: boolean;
}

export interface ListedVersion extends StoredVersion {
  readonly isLatest: boolean;
}

/** An upload in parts that was begun and is not completed. */
export interface PendingUpload {
  readonly key: string;
  readonly uploadId: string;
  readonly initiated: Date;
}

export type Versioning = 'Enabled' | 'Suspended' | undefined;

export interface Page {
  readonly objects: readonly StoredObject[];
  readonly truncated: boolean;
}

export interface PageRequest {
  readonly prefix: string;
  /** Keys up to this one are left out. */
  readonly after: string;
  readonly limit: number;
}

/**
 * A string whose order by UTF-16 code units, the only order JavaScript is quick at, is that of the key's UTF-8 bytes:
 * one character a byte. The two differ: an emoji comes after U+FFFD in UTF-8 and before it in UTF-16.
 */
const sortable = (key: string) => Buffer.from(key, 'utf8').toString('latin1');

class Bucket {
  readonly objects = new Map<string, StoredObject>();
  /** Every key there is, and some that are gone: those are passed over, so that a delete costs nothing here. */
  #order: { readonly key: string; readonly rank: string }[] = [];
  #unsorted = false;
  /** Of buckets that are or were versioned: of each key the versions, newest first. */
  readonly #versions = new Map<string, StoredVersion[]>();
  readonly uploads = new Map<string, PendingUpload>();
  #versioning: Versioning;
  #nextVersion = 1;

  get versioning(): Versioning {
    return this.#versioning;
  }

  set versioning(versioning: Versioning) {
    if (this.#versioning === undefined) {
      for (const object of this.objects.values()) {
        this.#versions.set(object.key, [{ ...object, versionId: 'null', isMarker: false }]);
      }
    }
    this.#versioning = versioning;
  }

  put(object: StoredObject): void {
    if (this.#versioning !== undefined) this.#push({ ...object, isMarker: false });
    this.#show(object);
  }

  /** A plain delete: a versioned bucket keeps what was there. Whether it was there. */
  remove(key: string): boolean {
    if (this.#versioning !== undefined) {
      this.#push({ key, body: new Uint8Array(), etag: '', modified: new Date(), isMarker: true });
    }
    return this.objects.delete(key);
  }

  /** Whether it was there. What is then the newest is what the key is. */
  removeVersion(key: string, versionId: string): boolean {
    if (this.#versioning === undefined) return versionId === 'null' && this.objects.delete(key);
    const all = this.#versions.get(key) ?? [];
    const left = all.filter(version => version.versionId !== versionId);
    this.#versions.set(key, left);
    const [newest] = left;
    if (newest === undefined || newest.isMarker) this.objects.delete(key);
    else this.#show(newest);
    return left.length < all.length;
  }

  versions(prefix: string): ListedVersion[] {
    const versions =
      this.#versioning === undefined
        ? [...this.objects.values()].map(object => [{ ...object, versionId: 'null', isMarker: false }])
        : [...this.#versions.values()];
    return versions
      .filter(([first]) => first?.key.startsWith(prefix))
      .sort(([a], [b]) => (sortable(a?.key ?? '') < sortable(b?.key ?? '') ? -1 : 1))
      .flatMap(all => all.map((version, n) => ({ ...version, isLatest: n === 0 })));
  }

  #push(version: Omit<StoredVersion, 'versionId'>): void {
    const all = this.#versions.get(version.key) ?? [];
    const versionId = this.#versioning === 'Enabled' ? `v${this.#nextVersion++}` : 'null';
    const kept = versionId === 'null' ? all.filter(other => other.versionId !== 'null') : all;
    this.#versions.set(version.key, [{ ...version, versionId }, ...kept]);
  }

  #show(object: StoredObject): void {
    // A key that is gone may still stand in the order; putting it in once more would list it twice.
    if (!this.objects.has(object.key)) {
      this.#order.push({ key: object.key, rank: sortable(object.key) });
      this.#unsorted = true;
    }
    this.objects.set(object.key, object);
  }

  page({ prefix, after, limit }: PageRequest): Page {
    this.#tidy();
    const [low, start] = [sortable(prefix), sortable(after)];
    const objects: StoredObject[] = [];
    for (let i = this.#firstAt(low > start ? low : start); i < this.#order.length; i++) {
      const entry = this.#order[i];
      if (!entry?.rank.startsWith(low)) break;
      const object = this.objects.get(entry.key);
      if (!object || (after !== '' && entry.rank === start)) continue;
      if (objects.length === limit) return { objects, truncated: true };
      objects.push(object);
    }
    return { objects, truncated: false };
  }

  #tidy(): void {
    if (!this.#unsorted && this.#order.length <= 2 * this.objects.size + 1000) return;
    const seen = new Set<string>();
    this.#order = this.#order.filter(({ key }) => {
      if (!this.objects.has(key) || seen.has(key)) return false;
      seen.add(key);
      return true;
    });
    this.#order.sort((a, b) => (a.rank < b.rank ? -1 : a.rank > b.rank ? 1 : 0));
    this.#unsorted = false;
  }

  #firstAt(rank: string): number {
    let [low, high] = [0, this.#order.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#order[middle]?.rank ?? '') < rank) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** The buckets of a server, for tests to fill and look into without HTTP, signatures or faults. */
export class Buckets {
  readonly #buckets = new Map<string, Bucket>();

  /** Makes a bucket; one that is there stays as it is. */
  createBucket(name: string): void {
    if (!this.#buckets.has(name)) this.#buckets.set(name, new Bucket());
  }

  /** Removes a bucket and what is in it. */
  removeBucket(name: string): void {
    this.#buckets.delete(name);
  }

  hasBucket(name: string): boolean {
    return this.#buckets.has(name);
  }

  /** Stores an object; its bucket is made if need be only by `createBucket`. */
  put(bucket: string, key: string, body: string | Uint8Array = '', modified = new Date()): StoredObject {
    if (key === '') throw new S3Error('InvalidArgument', 'an object has a key');
    const bytes = typeof body === 'string' ? Buffer.from(body, 'utf8') : body;
    const etag = `"${createHash('md5').update(bytes).digest('hex')}"`;
    const object = { key, body: bytes, etag, modified };
    this.#bucket(bucket).put(object);
    return object;
  }

  get(bucket: string, key: string): StoredObject | undefined {
    return this.#bucket(bucket).objects.get(key);
  }

  /** A plain delete, or that of one version. Whether it was there. */
  remove(bucket: string, key: string, versionId?: string): boolean {
    const found = this.#bucket(bucket);
    return versionId === undefined ? found.remove(key) : found.removeVersion(key, versionId);
  }

  versioning(bucket: string): Versioning {
    return this.#bucket(bucket).versioning;
  }

  setVersioning(bucket: string, versioning: Exclude<Versioning, undefined>): void {
    this.#bucket(bucket).versioning = versioning;
  }

  /** Versions and markers under a prefix: by key, of each the newest first. */
  versions(bucket: string, prefix = ''): ListedVersion[] {
    return this.#bucket(bucket).versions(prefix);
  }

  /** Begins an upload in parts, at a time of the caller's choice. */
  beginUpload(bucket: string, key: string, initiated = new Date()): PendingUpload {
    const { uploads } = this.#bucket(bucket);
    const upload = { key, uploadId: `upload-${uploads.size}-${key.length}-${Math.random()}`, initiated };
    uploads.set(upload.uploadId, upload);
    return upload;
  }

  /** Whether there was one. */
  abortUpload(bucket: string, key: string, uploadId: string): boolean {
    const { uploads } = this.#bucket(bucket);
    return uploads.get(uploadId)?.key === key && uploads.delete(uploadId);
  }

  /** Uploads that are not completed, under a prefix, by key and then by id. */
  uploads(bucket: string, prefix = ''): PendingUpload[] {
    const rank = ({ key, uploadId }: PendingUpload) => `${sortable(key)}\0${uploadId}`;
    return [...this.#bucket(bucket).uploads.values()]
      .filter(({ key }) => key.startsWith(prefix))
      .sort((a, b) => (rank(a) < rank(b) ? -1 : 1));
  }

  has(bucket: string, key: string): boolean {
    return this.#bucket(bucket).objects.has(key);
  }

  /** The keys that start with a prefix, in order. */
  list(bucket: string, prefix = ''): string[] {
    const { objects } = this.page(bucket, { prefix, after: '', limit: Number.POSITIVE_INFINITY });
    return objects.map(object => object.key);
  }

  count(bucket: string, prefix = ''): number {
    return prefix === '' ? this.#bucket(bucket).objects.size : this.list(bucket, prefix).length;
  }

  /** One page of a listing. */
  page(bucket: string, request: PageRequest): Page {
    return this.#bucket(bucket).page(request);
  }

  /** @throws S3Error NoSuchBucket */
  #bucket(name: string): Bucket {
    const bucket = this.#buckets.get(name);
    if (!bucket) throw new S3Error('NoSuchBucket', `The specified bucket does not exist: ${name}`);
    return bucket;
  }
}
