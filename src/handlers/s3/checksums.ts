/** The checksum that a DeleteObjects must have, and that servers do not agree on. */
import { createHash } from 'node:crypto';
import type { DeleteObjectsCommand } from '@aws-sdk/client-s3';

/**
 * `crc32`: what the SDK sends by itself, and newer AWS features demand. `md5`: Content-MD5, what every SDK sent before
 * 2025, and the only one that older MinIO, OVH, Dell ECS or Swift take.
 */
export type Checksum = 'crc32' | 'md5';

/**
 * Makes a command send Content-MD5 instead of the SDK's CRC32. The priority matters: any earlier, and the SDK adds its
 * own headers afterwards, which such servers refuse; any later, and the header is not signed.
 */
export function sendMd5(command: DeleteObjectsCommand): void {
  command.middlewareStack.add(
    next => async args => {
      const request = args.request as { headers: Record<string, string>; body?: string | Uint8Array };
      for (const name of Object.keys(request.headers)) {
        if (/^x-amz-((sdk-)?checksum-|trailer$)/i.test(name)) delete request.headers[name];
      }
      request.headers['content-md5'] = createHash('md5')
        .update(request.body ?? '')
        .digest('base64');
      return await next(args);
    },
    { step: 'build', priority: 'low', name: 'sendMd5' },
  );
}
