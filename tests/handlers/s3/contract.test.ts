import { onTestFinished } from 'vitest';
import { startS3Server } from '../../s3-server/server.ts';
import { describeContract } from './contract.ts';

describeContract('our own server', async () => {
  const server = await startS3Server();
  onTestFinished(() => server.stop());
  return server;
});
