/** The handler on real servers: what every handler does, and S3 case by case. */
import { CreateBucketCommand, ListObjectsV2Command, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import { describe, inject, it } from 'vitest';
import { createS3Handler } from '../../../src/handlers/s3/index.ts';
import type { RealServer } from '../../s3-servers/start.ts';
import { describeConformance } from '../conformance.ts';
import { describeContract } from './contract.ts';

let buckets = 0;

async function openStore({ endpoint, region, accessKeyId, secretAccessKey }: RealServer) {
  const Bucket = `afterdelete-conformance-${process.pid}-${Date.now().toString(36)}-${buckets++}`;
  const credentials = { accessKeyId, secretAccessKey };
  const client = new S3Client({ endpoint, region, forcePathStyle: true, credentials });
  await client.send(new CreateBucketCommand({ Bucket }));
  const handler = createS3Handler({
    stores: new Map([[`s3://${Bucket}`, { endpoint, region, credentials }]]),
  });
  const keyOf = (target: string) => target.slice(`s3://${Bucket}/`.length);
  const sizes = async () => {
    const found = new Map<string, number>();
    const { Contents = [] } = await client.send(new ListObjectsV2Command({ Bucket, EncodingType: 'url' }));
    for (const { Key = '', Size = 0 } of Contents) {
      found.set(`s3://${Bucket}/${decodeURIComponent(Key.replaceAll('+', ' '))}`, Size);
    }
    return found;
  };
  return {
    handler,
    root: `s3://${Bucket}/root/`,
    tellsAbsent: false,
    put: async (target: string, Body: Uint8Array) => {
      await client.send(new PutObjectCommand({ Bucket, Key: keyOf(target), Body }));
    },
    list: async () => [...(await sizes()).keys()].sort(),
    bytesOf: async (targets: readonly string[], how: 'alone' | 'in a tree') => {
      if (how === 'alone') return null;
      const found = await sizes();
      return targets.reduce((sum, target) => sum + (found.get(target) ?? 0), 0);
    },
    close: async () => {
      await handler.close?.();
      client.destroy();
    },
  };
}

const servers = inject('realServers');
for (const server of servers) {
  describeContract(server.name, async () => server);
  describeConformance(server.name, () => openStore(server));
}
describe.skipIf(servers.length > 0)('real servers', () => {
  it.skip('are not here: set S3_ENDPOINT, or install Go');
});
