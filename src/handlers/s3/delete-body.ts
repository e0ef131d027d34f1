/** The body of a DeleteObjects, of which the SDK writes the frame: a thousand keys through its serialiser are a tenth of the daemon's work. */
import type { DeleteObjectsCommand } from '@aws-sdk/client-s3';
import type { Item } from './bucket.ts';

/** What the SDK writes where there are no objects; in front of the last part they belong. */
const FRAME =
  /^(?:<\?xml version="1\.0" encoding="UTF-8"\?>)?<Delete xmlns="[^"<>]*">(?=<Quiet>true<\/Quiet><\/Delete>$)/;

/** What would not come through as it is, and how the SDK writes it: markup, and the ends of lines, which parsers make one of. */
const SPECIAL = /[&<>"'\r\n\u0085\u2028]/g;
const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&apos;',
  '\r': '&#x0D;',
  '\n': '&#x0A;',
  '\u0085': '&#x85;',
  '\u2028': '&#x2028;',
};
const escaped = (text: string) => text.replace(SPECIAL, char => ENTITIES[char] ?? '');

/** The SDK writes the frame otherwise than it did: nothing was sent, and its own serialiser has to be used. */
export class UnknownFrame extends Error {
  override readonly name = 'UnknownFrame';
}

/**
 * Has a command, made with no objects of its own, delete these. Every key must be one that XML can carry: see `carrierOf`.
 * A frame that is not as expected is never sent: without its objects, a request would seem to have deleted them all.
 * Sending the command then throws UnknownFrame.
 */
export function writeObjects(command: DeleteObjectsCommand, items: readonly Item[]): void {
  command.middlewareStack.add(
    next => async args => {
      const request = args.request as { body?: unknown };
      const frame = String(request.body);
      const [start] = FRAME.exec(frame) ?? [];
      if (start === undefined) throw new UnknownFrame(`the SDK writes a DeleteObjects otherwise: ${frame}`);
      let body = start;
      for (const { key, versionId, etag } of items) {
        body += `<Object><Key>${escaped(key)}</Key>`;
        if (versionId !== undefined) body += `<VersionId>${escaped(versionId)}</VersionId>`;
        if (etag !== undefined) body += `<ETag>${escaped(etag)}</ETag>`;
        body += '</Object>';
      }
      // As bytes: checksums, signature and socket would each make them anew.
      request.body = Buffer.from(body + frame.slice(start.length));
      return await next(args);
    },
    { step: 'serialize', priority: 'low', name: 'writeObjects' },
  );
}
