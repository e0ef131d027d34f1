/** The servers that `npm run test:s3` runs on: the one that S3_ENDPOINT names, or real ones of our own where Go is. */
import type { TestProject } from 'vitest/node';
import { hasGo } from './build.ts';
import { givenServer, type RealServer, SERVERS, startRealServer } from './start.ts';

declare module 'vitest' {
  interface ProvidedContext {
    realServers: readonly RealServer[];
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const given = givenServer(process.env);
  if (given) {
    project.provide('realServers', [given]);
    return async () => {};
  }
  if (!hasGo()) {
    console.log(
      '\ntest:s3: SKIPPED: no S3_ENDPOINT is set, and there is no Go toolchain to build servers with\n',
    );
    project.provide('realServers', []);
    return async () => {};
  }
  const started = await Promise.all(SERVERS.map(name => startRealServer(name)));
  project.provide(
    'realServers',
    started.map(({ stop: _, data: __, ...server }) => server),
  );
  return async () => void (await Promise.all(started.map(server => server.stop())));
}
