/** Objects for a real server to lose: made by requests, or, where it keeps each as a file, as files, which is faster. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { ListObjectsV2Command, PutObjectCommand, type S3Client } from '@aws-sdk/client-s3';
import pLimit from 'p-limit';
import type { StartedServer } from '../../tests/s3-servers/start.ts';

export const BYTES = 100;
const IN_A_FOLDER = 1_000;
const PUTS = 16;

export interface Objects {
  /** Makes so many objects of BYTES bytes, and has the disk take them. */
  make(keys: readonly string[]): Promise<void>;
  /** How many are left; asked by requests, a server tells of one at most. */
  left(): Promise<number>;
}

/** Keys below a prefix, a thousand to a folder. `keyInSql` gives the same ones, from i = 1 on. */
export const keysBelow = (prefix: string, count: number) =>
  Array.from({ length: count }, (_, n) => `${prefix}${Math.floor(n / IN_A_FOLDER)}/${n}`);
export const keyInSql = (prefix: string) => `'${prefix}' || (i - 1) / ${IN_A_FOLDER} || '/' || i - 1`;

export function objectsOf(server: StartedServer, client: S3Client, bucket: string): Objects {
  return server.name === 'versitygw' ? asFiles(join(server.data, bucket)) : byRequests(client, bucket);
}

function asFiles(directory: string): Objects {
  const content = Buffer.alloc(BYTES, 'x');
  return {
    async make(keys) {
      const paths = keys.map(key => join(directory, key));
      for (const folder of new Set(paths.map(dirname))) mkdirSync(folder, { recursive: true });
      for (const path of paths) writeFileSync(path, content);
      execFileSync('sync');
    },
    async left() {
      const entries = readdirSync(directory, { recursive: true, withFileTypes: true });
      return entries.filter(entry => entry.isFile()).length;
    },
  };
}

function byRequests(client: S3Client, bucket: string): Objects {
  const content = Buffer.alloc(BYTES, 'x');
  return {
    async make(keys) {
      await pLimit(PUTS).map(keys, async Key => {
        await client.send(new PutObjectCommand({ Bucket: bucket, Key, Body: content }));
      });
      execFileSync('sync');
    },
    async left() {
      const { KeyCount = 0 } = await client.send(new ListObjectsV2Command({ Bucket: bucket, MaxKeys: 1 }));
      return KeyCount;
    },
  };
}
