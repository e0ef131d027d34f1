/** Looks at what came back before the SDK does: whether it is an answer of S3 at all. */
import { Readable } from 'node:stream';
import type { S3Client } from '@aws-sdk/client-s3';

/** What the answer to a command begins with, if S3 gave it: the name of the root element, none for an empty body. */
const ROOT_ELEMENT: Readonly<Record<string, string>> = {
  DeleteObjectsCommand: 'DeleteResult',
  DeleteObjectCommand: '',
  ListObjectsV2Command: 'ListBucketResult',
  ListObjectVersionsCommand: 'ListVersionsResult',
  ListMultipartUploadsCommand: 'ListMultipartUploadsResult',
  AbortMultipartUploadCommand: '',
  GetBucketVersioningCommand: 'VersioningConfiguration',
};
const ROOT = /^\ufeff?\s*(?:(?:<\?[^>]*>|<!--.*?-->)\s*)*(?:<([\w:.-]+))?/s;

/**
 * To the SDK, any 2xx answer without the elements it looks for is an empty one: of a listing, "nothing is there"; of
 * DeleteObjects, "everything is deleted". A proxy's page, a web console, an empty body, an answer that is cut off would pass
 * as success, and so would elements with a prefix (`<s3:Error>`), and an `<Error>` that something follows, be it a line break
 * [the SDK looks at the last 8 characters]. So the answer is looked at before the SDK sees it.
 */
export function refuseStrangers(client: S3Client): void {
  client.middlewareStack.add(
    (next, context) => async args => {
      const result = await next(args);
      const expected = ROOT_ELEMENT[context.commandName ?? ''];
      const response = result.response as { statusCode?: number; body?: unknown };
      const { statusCode = 0, body } = response;
      if (expected === undefined) return result;
      const bytes = await readBody(body, statusCode);
      response.body = Readable.from([bytes]);
      if (statusCode < 200 || statusCode > 299) return result;
      const text = bytes.toString('utf8', 0, BEGINNING);
      const [prologue, element = ''] = ROOT.exec(text) ?? ['', ''];
      const isEmpty = element === '' && prologue.length === text.length && bytes.length <= BEGINNING;
      if (element === 'Error') {
        response.statusCode = 503;
      } else if (element !== expected || (expected === '' && !isEmpty)) {
        const error = new Error(
          `the answer is ${isEmpty ? 'empty' : `no ${expected || 'empty one'} but begins with ${JSON.stringify(text.slice(0, 60))}`}`,
        );
        throw withStatus(error, statusCode);
      } else if (expected !== '') {
        // What is cut off says less than was said: fewer errors, fewer keys, no word of further pages.
        if (!isWhole(expected, bytes)) {
          throw withStatus(new Error(`the answer is cut off after ${bytes.length} bytes`), statusCode);
        }
        // Some servers name every key that they deleted, however quiet they are asked to be: of no use, and slow to parse.
        if (expected === 'DeleteResult' && !bytes.includes('Error')) {
          response.body = Readable.from([Buffer.from('<DeleteResult></DeleteResult>')]);
        }
      }
      return result;
    },
    { step: 'deserialize', priority: 'low', name: 'refuseStrangers' },
  );
}

/** No answer of S3 is longer, in bytes: a thousand keys of 1,024 bytes each, percent-encoded, are 3 MB. */
const LONGEST = 64 << 20;
/** Bytes of an answer in which its root element begins. */
const BEGINNING = 2_000;

/** What may follow a root element, and the last tag before it. */
const LAST_TAG = /<(\/)?([\w:.-]+)[^<>]*?(\/)?>(?:<!--.*?-->|\s)*$/s;

/** Whether a document ends with the end of its root element, or with the element itself if it has no content. */
function isWhole(root: string, bytes: Buffer): boolean {
  const [, closes, name, isEmpty] =
    LAST_TAG.exec(bytes.toString('utf8', Math.max(0, bytes.length - BEGINNING))) ?? [];
  return name === root && (closes ?? isEmpty) !== undefined;
}

/** What goes on for ever is not kept in memory, and its connection is cut. */
async function readBody(body: unknown, statusCode: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let length = 0;
  if (body instanceof Readable) {
    for await (const chunk of body) {
      chunks.push(chunk);
      length += chunk.length;
      if (length > LONGEST)
        throw withStatus(new Error(`the answer is longer than ${LONGEST} bytes`), statusCode);
    }
  }
  return Buffer.concat(chunks);
}

/** As the SDK's errors have it. */
function withStatus(error: Error, httpStatusCode: number): Error {
  return Object.assign(error, { $metadata: { httpStatusCode } });
}

/** The dates of answers, by what the SDK made of each. */
const dates = new WeakMap<object, Date>();

/** Remembers the time that the server gives with each answer: its clock is what its own dates are compared with. */
export function rememberDates(client: S3Client): void {
  client.middlewareStack.add(
    next => async args => {
      const result = await next(args);
      const { headers = {} } = result.response as { headers?: Readonly<Record<string, string>> };
      const date = new Date(headers.date ?? '');
      if (result.output && !Number.isNaN(date.getTime())) dates.set(result.output, date);
      return result;
    },
    { step: 'deserialize', priority: 'high', name: 'rememberDates' },
  );
}

/** The server's clock when it gave an answer; undefined where it does not say. */
export function dateOf(output: object): Date | undefined {
  return dates.get(output);
}
