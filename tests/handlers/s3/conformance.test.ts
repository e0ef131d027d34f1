import { startS3Server } from '../../s3-server/server.ts';
import { describeConformance } from '../conformance.ts';
import { BUCKET, handlerOf } from './support.ts';

for (const deleteMode of ['auto', 'batch', 'single'] as const) {
  describeConformance(`s3, deleteMode ${deleteMode}`, async () => {
    const server = await startS3Server({ buckets: [BUCKET] });
    const handler = handlerOf(server, { deleteMode });
    const root = `s3://${BUCKET}/root/`;
    const keyOf = (target: string) => target.slice(`s3://${BUCKET}/`.length);
    return {
      handler,
      root,
      tellsAbsent: false,
      put: async (target, content) => void server.buckets.put(BUCKET, keyOf(target), content),
      list: async () =>
        server.buckets
          .list(BUCKET)
          .map(key => `s3://${BUCKET}/${key}`)
          .sort(),
      bytesOf: async (targets, how) =>
        how === 'alone'
          ? null
          : targets.reduce(
              (sum, target) => sum + (server.buckets.get(BUCKET, keyOf(target))?.body.length ?? 0),
              0,
            ),
      close: async () => {
        await handler.close?.();
        await server.stop();
      },
    };
  });
}
