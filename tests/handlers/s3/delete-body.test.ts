import { DeleteObjectsCommand, S3Client } from '@aws-sdk/client-s3';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type Item, S3Bucket } from '../../../src/handlers/s3/bucket.ts';
import { Connection } from '../../../src/handlers/s3/clients.ts';
import { writeObjects } from '../../../src/handlers/s3/delete-body.ts';
import { carrierOf } from '../../../src/handlers/s3/keys.ts';
import { BUCKET, setUp } from './support.ts';

const client = new S3Client({
  endpoint: 'http://127.0.0.1:1',
  region: 'us-east-1',
  forcePathStyle: true,
  credentials: { accessKeyId: 'a', secretAccessKey: 's' },
});

/** What would be sent; it is not. */
async function bodyOf(command: DeleteObjectsCommand): Promise<string> {
  let body = '';
  command.middlewareStack.add(
    () => async args => {
      body = Buffer.from((args.request as { body: string | Uint8Array }).body as string).toString();
      throw new Error('far enough');
    },
    { step: 'finalizeRequest', priority: 'low' },
  );
  await expect(client.send(command)).rejects.toThrow('far enough');
  return body;
}

const empty = () => new DeleteObjectsCommand({ Bucket: 'b', Delete: { Quiet: true, Objects: [] } });

describe('the body of a DeleteObjects', () => {
  const text = fc.string({ minLength: 1, unit: 'binary' });
  const odd = fc.string({ minLength: 1, unit: fc.constantFrom(...'&<>"\'\r\n\u0085\u2028 +%/;#a🦀\t') });
  const item: fc.Arbitrary<Item> = fc.record({
    key: fc.oneof(text, odd).filter(key => ['any', 'batch'].includes(carrierOf(key))),
    versionId: fc.option(odd, { nil: undefined }),
    etag: fc.option(fc.constant('"d41d8cd9"'), { nil: undefined }),
  });

  it('is byte by byte what the SDK itself would write', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(item, { minLength: 1, maxLength: 5 }), async items => {
        const Objects = items.map(({ key, versionId, etag }) => ({
          Key: key,
          VersionId: versionId,
          ETag: etag,
        }));
        const theirs = await bodyOf(
          new DeleteObjectsCommand({ Bucket: 'b', Delete: { Quiet: true, Objects } }),
        );
        const command = empty();
        writeObjects(command, items);
        expect(await bodyOf(command)).toBe(theirs);
      }),
    );
  });

  it.each(['', '<Delete/>', '<Delete xmlns="urn:s3"><Quiet>false</Quiet></Delete>'])(
    'is never sent within a frame that is not known: %j',
    async frame => {
      const command = empty();
      // As a later SDK might: behind its serialiser, in front of ours.
      command.middlewareStack.add(
        next => async args => {
          (args.request as { body?: unknown }).body = frame;
          return await next(args);
        },
        { step: 'serialize', priority: 'low', name: 'otherFrame' },
      );
      writeObjects(command, [{ key: 'a' }]);
      await expect(client.send(command)).rejects.toThrow('otherwise');
    },
  );

  it('is left to the SDK once that writes another frame: the objects are deleted all the same', async () => {
    const { server, context, requests } = await setUp();
    const { endpoint, accessKeyId, secretAccessKey } = server;
    const later = new S3Client({
      ...{ endpoint, region: 'us-east-1', forcePathStyle: true },
      credentials: { accessKeyId, secretAccessKey },
    });
    later.middlewareStack.add(
      next => async args => {
        const request = args.request as { body?: unknown };
        request.body = `${request.body}`.replace('<Quiet>', ' <Quiet>');
        return await next(args);
      },
      { step: 'serialize', priority: 'low', name: 'otherFrame' },
    );
    const bucket = new S3Bucket(BUCKET, new Connection(endpoint, () => later), {});
    const keys = ['a', 'b & c', 'd'];
    for (const key of keys) server.buckets.put(BUCKET, key);
    for (const items of [keys.slice(0, 2), keys.slice(2)])
      await bucket.deleteObjects(
        items.map(key => ({ key })),
        context,
      );
    expect(server.buckets.list(BUCKET)).toEqual([]);
    expect(requests('DeleteObjects').map(request => request.keys)).toEqual([['a', 'b & c'], ['d']]);
    later.destroy();
  });
});
