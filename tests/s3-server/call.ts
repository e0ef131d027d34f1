/** A request on its way through the server, and what comes of it. */
import type { Faults, RequestRecord } from './faults.ts';
import type { Buckets } from './store.ts';

export interface Answer {
  readonly status: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Uint8Array;
}

export interface Call {
  readonly request: RequestRecord;
  readonly body: Buffer;
  /** Whether the body came with a checksum. */
  readonly checked: boolean;
  readonly buckets: Buckets;
  readonly faults: Faults;
}

/** Most keys in a request or a page. */
export const MAX_KEYS = 1000;
