/**
 * Builds real S3 servers, and tools to measure against, out of the Go module proxy: `npm run s3:build`. Each is pinned, and
 * built once, outside of the repository. Needs a Go toolchain; nothing that the suite or the daemon needs.
 */
import { execFile, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

interface GoProgram {
  readonly package: string;
  readonly module: string;
  readonly version: string;
}

export const PROGRAMS = {
  // Apache-2.0. Full SigV4, versions; files below a directory.
  versitygw: {
    package: 'github.com/versity/versitygw/cmd/versitygw',
    module: 'github.com/versity/versitygw',
    version: 'v1.8.0',
  },
  // AGPL-3.0, run as a program of its own. Archived, and still what many have.
  minio: {
    package: 'github.com/minio/minio',
    module: 'github.com/minio/minio',
    version: 'v0.0.0-20260212201848-7aac2a2c5b7c',
  },
  // MIT. What a prefix is measured against.
  s5cmd: {
    package: 'github.com/peak/s5cmd/v2',
    module: 'github.com/peak/s5cmd/v2',
    version: 'v2.3.0',
  },
} as const satisfies Record<string, GoProgram>;

export type ProgramName = keyof typeof PROGRAMS;

/** Whether there is a Go toolchain. */
export function hasGo(): boolean {
  return spawnSync('go', ['version']).status === 0;
}

/** Where a program is, once it is built. */
function placeOf(name: ProgramName): { directory: string; program: string } {
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), '.cache');
  const directory = join(cache, 'afterdelete', 'go', `${name}@${PROGRAMS[name].version}`);
  return { directory, program: join(directory, name) };
}

/** The path of a program that is built, or undefined. */
export function builtProgram(name: ProgramName): string | undefined {
  const { program } = placeOf(name);
  return existsSync(program) ? program : undefined;
}

/** Builds a program if it is not built yet; it may take minutes the first time. @returns its path. */
export async function buildProgram(name: ProgramName): Promise<string> {
  const { directory, program } = placeOf(name);
  if (existsSync(program)) return program;
  const { package: path, module, version } = PROGRAMS[name];
  mkdirSync(directory, { recursive: true });
  // A module of its own: `go install` asks for more than some proxies have.
  writeFileSync(join(directory, 'go.mod'), `module build\n\ngo 1.24\n\nrequire ${module} ${version}\n`);
  console.log(`building ${name} ${version}; it takes a while, once`);
  const unfinished = `${program}.${process.pid}`;
  await promisify(execFile)('go', ['build', '-mod=mod', '-o', unfinished, path], {
    cwd: directory,
    maxBuffer: 1 << 26,
  });
  renameSync(unfinished, program);
  return program;
}

if (import.meta.main) {
  if (!hasGo()) {
    console.log('s3:build: skipped, because there is no Go toolchain on the PATH');
  } else {
    for (const name of Object.keys(PROGRAMS) as ProgramName[]) console.log(name, await buildProgram(name));
  }
}
