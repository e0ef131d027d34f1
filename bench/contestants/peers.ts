/** The peers: a package of the benchmarks' own, installed when a benchmark first needs it. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath, pathToFileURL } from 'node:url';

const PACKAGE = new URL('../peers/', import.meta.url);

const read = (path: string) => JSON.parse(readFileSync(new URL(path, PACKAGE), 'utf8'));

/** The versions that are compared, by name. */
export function peerVersions(): Record<string, string> {
  return read('package.json').dependencies;
}

/** Installs what is missing or of another version. */
export function installPeers(): void {
  const installed = Object.entries(peerVersions()).every(([name, version]) => {
    const manifest = `node_modules/${name}/package.json`;
    return existsSync(new URL(manifest, PACKAGE)) && read(manifest).version === version;
  });
  if (!installed)
    execFileSync('npm', ['ci', '--no-audit', '--no-fund'], { cwd: fileURLToPath(PACKAGE), stdio: 'inherit' });
}

export async function importPeer<Module>(name: string): Promise<Module> {
  const path = createRequire(new URL('package.json', PACKAGE)).resolve(name);
  return (await import(pathToFileURL(path).href)) as Module;
}
