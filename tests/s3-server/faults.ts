/** What can go wrong with the server, set while it runs. The real ones do all of it. */

/** A request as the server understood it, before anything was done. */
export interface RequestRecord {
  readonly method: string;
  /** The operation's name in S3's API, `DeleteObjects`; `Unknown` for what the server does not know. */
  readonly operation: string;
  readonly bucket: string;
  /** The keys that it names, in order: none for a listing. */
  readonly keys: readonly string[];
  readonly query: ReadonlyMap<string, string>;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
}

/** How a request ends instead of as it should. */
export type Fault =
  /** An error document; nothing is done. */
  | { readonly kind: 'error'; readonly code: string; readonly message?: string; readonly status?: number }
  /** Status 200, and an error document all the same: S3 does that when it fails after it has begun to answer. */
  | { readonly kind: 'error_in_200'; readonly code: string; readonly message?: string }
  /** Whatever is given: a proxy's page, a listing that no server should send. */
  | {
      readonly kind: 'raw';
      readonly status: number;
      readonly body: string;
      readonly headers?: Readonly<Record<string, string>>;
    }
  /** The connection is cut, before anything is done or once all of it is. */
  | { readonly kind: 'reset'; readonly when: 'before' | 'after_commit' }
  /** No answer, ever. */
  | { readonly kind: 'hang'; readonly when: 'before' | 'after_commit' }
  /** The server goes down: every connection is cut, new ones are refused until `start()`. */
  | { readonly kind: 'stop'; readonly when: 'before' | 'after_commit' };

/** The errors that tests want most. */
export const SLOW_DOWN: Fault = {
  kind: 'error',
  code: 'SlowDown',
  message: 'Please reduce your request rate.',
};
export const UNAVAILABLE: Fault = {
  kind: 'error',
  code: 'ServiceUnavailable',
  message: 'Service is unable to handle request.',
};
export const INTERNAL_ERROR: Fault = {
  kind: 'error',
  code: 'InternalError',
  message: 'We encountered an internal error. Please try again.',
};
export const ACCESS_DENIED: Fault = { kind: 'error', code: 'AccessDenied', message: 'Access Denied' };
export const NOT_IMPLEMENTED: Fault = {
  kind: 'error',
  code: 'NotImplemented',
  message: 'A header you provided implies functionality that is not implemented.',
};

export interface KeyError {
  readonly code: string;
  readonly message?: string;
}

/** What a delete of a key, or of one version of it, ends with. */
type KeyFault = (key: string, versionId?: string) => KeyError | undefined;
type Predicate = (request: RequestRecord) => boolean;

/** The faults of a server. All of them off until set. */
export class Faults {
  #rules: { readonly matches: Predicate; readonly fault: Fault; left: number }[] = [];
  #keyError: KeyFault = () => undefined;
  #echo: (key: string) => string = key => key;
  #keeps: (key: string) => boolean = () => false;
  #latency: (request: RequestRecord) => number = () => 0;

  /** The next `count` requests (that match, if given) end so. Faults set earlier come first. */
  next(fault: Fault, count = 1, matches: Predicate = () => true): void {
    this.#rules.push({ matches, fault, left: count });
  }

  /** Every request that matches ends so, until the function that is returned is called. */
  when(matches: Predicate, fault: Fault): () => void {
    const rule = { matches, fault, left: Number.POSITIVE_INFINITY };
    this.#rules.push(rule);
    return () => {
      this.#rules = this.#rules.filter(other => other !== rule);
    };
  }

  /** The server has no DeleteObjects, as older Google Cloud Storage. */
  noBatch(): () => void {
    return this.when(request => request.operation === 'DeleteObjects', NOT_IMPLEMENTED);
  }

  /** The server wants Content-MD5, as MinIO before 2025, OVH or Dell ECS. */
  requireMd5(): () => void {
    const lacks = ({ operation, headers }: RequestRecord) =>
      operation === 'DeleteObjects' && headers['content-md5'] === undefined;
    const message = 'Missing required header for this request: Content-Md5.';
    return this.when(lacks, { kind: 'error', code: 'MissingContentMD5', message, status: 400 });
  }

  /** The server does not know the newer checksums, as B2 before 2025. */
  rejectCrc(): () => void {
    const has = ({ operation, headers }: RequestRecord) =>
      operation === 'DeleteObjects' && headers['x-amz-checksum-crc32'] !== undefined;
    const message = "Unsupported header 'x-amz-checksum-crc32' received for this API call.";
    return this.when(has, { kind: 'error', code: 'InvalidArgument', message, status: 400 });
  }

  /** The server takes no Content-MD5, as AWS's directory buckets. */
  rejectMd5(): () => void {
    const has = ({ operation, headers }: RequestRecord) =>
      operation === 'DeleteObjects' && headers['content-md5'] !== undefined;
    const message = 'Content-MD5 is not supported: use a checksum.';
    return this.when(has, { kind: 'error', code: 'InvalidRequest', message, status: 400 });
  }

  /** Keys stand otherwise in the errors of a DeleteObjects than they were asked for, e.g. without a leading slash. */
  echo(change: (key: string) => string): void {
    this.#echo = change;
  }

  /** Deleting a key fails so: as an entry of a DeleteObjects answer, as the whole answer of a DeleteObject. */
  perKey(keyError: KeyFault): void {
    this.#keyError = keyError;
  }

  /** Deletes of these keys are confirmed and not done. */
  pretendDeletes(keeps: (key: string) => boolean): void {
    this.#keeps = keeps;
  }

  /** Milliseconds that a request waits before anything is done. */
  latency(milliseconds: number | ((request: RequestRecord) => number)): void {
    this.#latency = typeof milliseconds === 'number' ? () => milliseconds : milliseconds;
  }

  /** Nothing goes wrong any more. */
  clear(): void {
    this.#rules = [];
    this.#keyError = () => undefined;
    this.#echo = key => key;
    this.#keeps = () => false;
    this.#latency = () => 0;
  }

  /** For the server: how this request ends, using up a fault that is counted. */
  take(request: RequestRecord): Fault | undefined {
    const rule = this.#rules.find(({ left, matches }) => left > 0 && matches(request));
    if (!rule) return undefined;
    rule.left -= 1;
    if (rule.left <= 0) this.#rules = this.#rules.filter(other => other !== rule);
    return rule.fault;
  }

  /** For the server. */
  errorOf(key: string, versionId?: string): KeyError | undefined {
    return this.#keyError(key, versionId);
  }

  /** For the server. */
  echoed(key: string): string {
    return this.#echo(key);
  }

  /** For the server. */
  keeps(key: string): boolean {
    return this.#keeps(key);
  }

  /** For the server. */
  latencyOf(request: RequestRecord): number {
    return this.#latency(request);
  }
}
