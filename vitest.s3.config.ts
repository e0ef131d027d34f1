/** `npm run test:s3`: what runs on real S3 servers. They are slower than our own, and not everywhere. */
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['tests/**/*.s3.ts'],
    globalSetup: ['tests/s3-servers/global-setup.ts'],
    pool: 'forks',
    maxWorkers: 1,
    testTimeout: 120_000,
    hookTimeout: 60_000,
    reporters: ['default', './tests/support/plain-reporter.ts'],
  },
});
