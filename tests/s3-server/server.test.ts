/** The test server is held to what S3 does, by Amazon's own client. */
import { Readable } from 'node:stream';
import {
  CreateBucketCommand,
  DeleteObjectsCommand,
  GetObjectCommand,
  HeadBucketCommand,
  HeadObjectCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import { expect, it, onTestFinished } from 'vitest';
import { type S3Server, startS3Server } from './server.ts';

async function setUp(credentials: { accessKeyId?: string; secretAccessKey?: string } = {}) {
  const server = await startS3Server({ buckets: ['bucket'] });
  const { endpoint, accessKeyId, secretAccessKey } = server;
  const client = new S3Client({
    endpoint,
    region: 'eu-north-1',
    forcePathStyle: true,
    maxAttempts: 1,
    credentials: { accessKeyId, secretAccessKey, ...credentials },
  });
  onTestFinished(async () => {
    client.destroy();
    await server.stop();
  });
  return { server, client };
}

/** Changes a request's headers after the SDK has set its own and before it signs. */
function changeHeaders(client: S3Client, change: (headers: Record<string, string>) => void): void {
  client.middlewareStack.add(
    next => async args => {
      change((args.request as { headers: Record<string, string> }).headers);
      return await next(args);
    },
    { step: 'build', priority: 'low' },
  );
}

const deletion = (keys: readonly string[], Quiet = true) =>
  new DeleteObjectsCommand({ Bucket: 'bucket', Delete: { Quiet, Objects: keys.map(Key => ({ Key })) } });
const fill = (server: S3Server, count: number) => {
  for (let n = 0; n < count; n++) server.buckets.put('bucket', `k/${String(n).padStart(5, '0')}`, 'x');
};

it('stores what is put, in one piece and as a stream with a trailing checksum', async () => {
  const { server, client } = await setUp();
  await client.send(new CreateBucketCommand({ Bucket: 'other' }));
  await client.send(new HeadBucketCommand({ Bucket: 'other' }));
  await client.send(new PutObjectCommand({ Bucket: 'other', Key: 'a', Body: 'one piece' }));
  const Body = Readable.from([Buffer.from('a '), Buffer.from('stream')]);
  await client.send(new PutObjectCommand({ Bucket: 'other', Key: 'b/c', Body, ContentLength: 8 }));
  expect(server.buckets.list('other')).toEqual(['a', 'b/c']);
  const { Body: body } = await client.send(new GetObjectCommand({ Bucket: 'other', Key: 'b/c' }));
  expect(await body?.transformToString()).toBe('a stream');
  expect(await client.send(new HeadObjectCommand({ Bucket: 'other', Key: 'a' }))).toMatchObject({
    ContentLength: 9,
  });
  await expect(client.send(new HeadObjectCommand({ Bucket: 'other', Key: 'z' }))).rejects.toThrow();
});

it.each([
  [{ secretAccessKey: 'wrong' }, 'SignatureDoesNotMatch'],
  [{ accessKeyId: 'wrong' }, 'InvalidAccessKeyId'],
])('refuses %j', async (credentials, name) => {
  const { client } = await setUp(credentials);
  await expect(client.send(new ListObjectsV2Command({ Bucket: 'bucket' }))).rejects.toMatchObject({ name });
});

it('pages through a listing in the order of UTF-8, encoded if asked', async () => {
  const { server, client } = await setUp();
  // U+FFFD comes before an emoji in UTF-8, and after it in UTF-16.
  const keys = ['p/a b', 'p/a+b', 'p/a/', 'p/\ufffd', 'p/🦀'];
  for (const key of [...keys].reverse()) server.buckets.put('bucket', key);
  for (const key of ['o', 'p', 'q']) server.buckets.put('bucket', key);
  const listed: (string | undefined)[] = [];
  let token: string | undefined;
  do {
    const page = await client.send(
      new ListObjectsV2Command({ Bucket: 'bucket', Prefix: 'p/', MaxKeys: 2, ContinuationToken: token }),
    );
    expect(page.KeyCount).toBe(page.Contents?.length);
    listed.push(...(page.Contents ?? []).map(({ Key }) => Key));
    token = page.NextContinuationToken;
  } while (token);
  expect(listed).toEqual(keys);
  const encoded = await client.send(
    new ListObjectsV2Command({ Bucket: 'bucket', Prefix: 'p/', StartAfter: 'p/a', EncodingType: 'url' }),
  );
  expect(encoded).toMatchObject({ EncodingType: 'url', Prefix: 'p/', IsTruncated: false });
  expect(encoded.Contents?.map(({ Key }) => Key)).toEqual([
    'p/a+b',
    'p/a%2Bb',
    'p/a/',
    'p/%EF%BF%BD',
    'p/%F0%9F%A6%80',
  ]);
});

it('deletes up to a thousand keys in a request, and tells of them unless asked to be quiet', async () => {
  const { server, client } = await setUp();
  fill(server, 1500);
  const keys = server.buckets.list('bucket');
  await expect(client.send(deletion(keys.slice(0, 1001)))).rejects.toMatchObject({ name: 'MalformedXML' });
  await expect(client.send(deletion([]))).rejects.toMatchObject({ name: 'MalformedXML' });
  expect(server.buckets.count('bucket')).toBe(1500);
  expect((await client.send(deletion(keys.slice(0, 1000)))).Deleted).toBeUndefined();
  expect((await client.send(deletion(keys.slice(1000), false))).Deleted).toHaveLength(500);
  expect(server.buckets.count('bucket')).toBe(0);
});

it('refuses a body that XML does not allow', async () => {
  const { server, client } = await setUp();
  fill(server, 1);
  const broken = client.send(deletion(['k/00000', 'control \u0001']));
  await expect(broken).rejects.toMatchObject({ name: 'MalformedXML' });
  expect(server.buckets.count('bucket')).toBe(1);
});

it('wants a checksum with a DeleteObjects, and a right one', async () => {
  const { client } = await setUp();
  changeHeaders(client, headers => {
    delete headers['x-amz-checksum-crc32'];
  });
  await expect(client.send(deletion(['a']))).rejects.toMatchObject({ name: 'InvalidRequest' });
  const other = await setUp();
  changeHeaders(other.client, headers => {
    headers['x-amz-checksum-crc32'] = 'AAAAAA==';
  });
  await expect(other.client.send(deletion(['a']))).rejects.toMatchObject({ name: 'BadDigest' });
  const third = await setUp();
  changeHeaders(third.client, headers => {
    headers['content-md5'] = 'AAAAAAAAAAAAAAAAAAAAAA==';
  });
  await expect(third.client.send(deletion(['a']))).rejects.toMatchObject({ name: 'BadDigest' });
});

it('keeps its data and its port when it is stopped and started', async () => {
  const { server, client } = await setUp();
  fill(server, 3);
  const { endpoint } = server;
  await server.stop();
  await expect(client.send(new ListObjectsV2Command({ Bucket: 'bucket' }))).rejects.toMatchObject({
    code: 'ECONNREFUSED',
  });
  await server.start();
  expect(server.endpoint).toBe(endpoint);
  expect((await client.send(new ListObjectsV2Command({ Bucket: 'bucket' }))).KeyCount).toBe(3);
});
