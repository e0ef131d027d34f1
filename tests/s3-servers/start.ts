/** Starts real S3 servers, each in a directory of its own under the system's temporary one, on 127.0.0.1. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildProgram } from './build.ts';

export interface RealServer {
  readonly name: string;
  readonly endpoint: string;
  readonly region: string;
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
}

export interface StartedServer extends RealServer {
  /** Where it keeps its buckets. */
  readonly data: string;
  /** Its process. */
  readonly pid: number;
  stop(): Promise<void>;
}

export const SERVERS = ['versitygw', 'minio'] as const;
export type ServerName = (typeof SERVERS)[number];

const CREDENTIALS = { accessKeyId: 'test-access-key', secretAccessKey: 'test-secret-key' };
/** Longest that a server may take to answer, in ms. */
const PATIENCE = 30_000;

/** Builds a server if need be, starts it, and resolves when it answers. */
export async function startRealServer(name: ServerName, directoryBelow = tmpdir()): Promise<StartedServer> {
  const program = await buildProgram(name);
  const directory = mkdtempSync(join(directoryBelow, `afterdelete-${name}-`));
  const [data, versions] = [join(directory, 'data'), join(directory, 'versions')];
  for (const path of [data, versions]) mkdirSync(path);
  const address = `127.0.0.1:${await freePort()}`;
  const { accessKeyId, secretAccessKey } = CREDENTIALS;
  const args = {
    versitygw: ['--port', address, '--quiet', 'posix', '--versioning-dir', versions, data],
    minio: ['server', '--quiet', '--address', address, '--console-address', '127.0.0.1:0', data],
  }[name];
  const child = spawn(program, args, {
    stdio: ['ignore', 'ignore', 'pipe'],
    env: {
      ...process.env,
      ROOT_ACCESS_KEY: accessKeyId,
      ROOT_SECRET_KEY: secretAccessKey,
      MINIO_ROOT_USER: accessKeyId,
      MINIO_ROOT_PASSWORD: secretAccessKey,
      MINIO_UPDATE: 'off',
    },
  });
  let said = '';
  child.stderr.on('data', chunk => {
    said = `${said}${chunk}`.slice(-2000);
  });
  const stop = async () => {
    await ended(child);
    rmSync(directory, { recursive: true, force: true });
  };
  const endpoint = `http://${address}`;
  try {
    await answers(endpoint, child);
  } catch (error) {
    await stop();
    throw new Error(`${name} does not answer: ${(error as Error).message}\n${said}`);
  }
  return { name, endpoint, region: 'us-east-1', ...CREDENTIALS, data, pid: child.pid ?? 0, stop };
}

/** The server that the environment names, for `S3_ENDPOINT=… npm run test:s3`. */
export function givenServer(env: NodeJS.ProcessEnv): RealServer | undefined {
  const { S3_ENDPOINT: endpoint, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION } = env;
  if (!endpoint) return undefined;
  if (!AWS_ACCESS_KEY_ID || !AWS_SECRET_ACCESS_KEY) {
    throw new Error('S3_ENDPOINT is set: expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to be, too');
  }
  return {
    name: endpoint,
    endpoint,
    region: AWS_REGION || 'us-east-1',
    accessKeyId: AWS_ACCESS_KEY_ID,
    secretAccessKey: AWS_SECRET_ACCESS_KEY,
  };
}

async function freePort(): Promise<number> {
  return await new Promise((resolve, reject) => {
    const server = createServer().once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      const port = typeof address === 'object' && address ? address.port : 0;
      server.close(() => resolve(port));
    });
  });
}

async function answers(endpoint: string, child: ChildProcess): Promise<void> {
  const deadline = performance.now() + PATIENCE;
  for (;;) {
    if (child.exitCode !== null) throw new Error(`it ended with ${child.exitCode}`);
    try {
      // Who asks without a signature is refused, which is an answer. MinIO says 503 until it is ready.
      const { status } = await fetch(endpoint);
      if (status < 500) return;
    } catch {
      // Not yet.
    }
    if (performance.now() > deadline) throw new Error(`not within ${PATIENCE / 1000} s`);
    await new Promise(resolve => setTimeout(resolve, 50));
  }
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = new Promise(resolve => child.once('exit', resolve));
  child.kill('SIGTERM');
  const hard = setTimeout(() => child.kill('SIGKILL'), 5_000);
  await exit;
  clearTimeout(hard);
}
