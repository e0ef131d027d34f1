/** What can be said of a key before it is sent: which request can carry it, and what a listing's encoding hides. */

/** Everything but what XML 1.0 allows. A `u` expression takes a lone surrogate for a character of its own. */
const NOT_XML = /[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/u;

/** Segments `.` and `..`, and nothing but slashes. */
const UNSAFE_PATH = /(?:^|\/)\.\.?(?:\/|$)|^\/+$/;

/**
 * Which request can carry a key.
 * - `any`: DeleteObjects, and DeleteObject where there is no batch.
 * - `batch`: only DeleteObjects, in whose body it stands. In a path, `.` and `..` segments go raw: a proxy that
 *   resolves them makes another key of it, and a key that is nothing but slashes may become the bucket itself, so that
 *   DeleteObject would be DeleteBucket.
 * - `single`: only DeleteObject, in whose path it is percent-encoded. Control characters would stand raw in the XML,
 *   and one of them spoils it for a thousand keys.
 * - `none`: both of it, or no UTF-8 at all: a lone surrogate would be sent as U+FFFD, which is another key.
 */
export type Carrier = 'any' | 'batch' | 'single' | 'none';

export function carrierOf(key: string): Carrier {
  if (key === '' || !key.isWellFormed()) return 'none';
  const single = NOT_XML.test(key);
  const batch = UNSAFE_PATH.test(key);
  if (single) return batch ? 'none' : 'single';
  return batch ? 'batch' : 'any';
}

/**
 * A key as a listing means it: percent-encoded only if the answer says so (not every server does what it is asked),
 * and `+` is a space then. Undefined for one that is not UTF-8 or was
 * replaced, which no request could name.
 */
export function decodeListedKey(key: string, encoding: string | undefined): string | undefined {
  // What cannot be said in XML, versitygw and other servers in Go replace: the key itself is not to be had.
  if (encoding !== 'url') return key.includes('\ufffd') ? undefined : key;
  try {
    return decodeURIComponent(key.replaceAll('+', ' '));
  } catch {
    return undefined;
  }
}
