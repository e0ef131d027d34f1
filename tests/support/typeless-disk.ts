/**
 * A file system that does not tell what kind of entry a name in a directory stands for (`d_type` is DT_UNKNOWN), as some
 * network and older local ones: ext2 without its feature `filetype`, in an image. Only root can mount one, and not everywhere.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface TypelessDisk {
  readonly path: string;
  remove(): void;
}

/** Makes and mounts one, with names listed in the order they were made; a text says why that cannot be done here. */
export function createTypelessDisk(): TypelessDisk | string {
  const directory = mkdtempSync('/tmp/afterdelete-typeless-');
  const path = join(directory, 'mounted');
  const image = join(directory, 'image');
  writeFileSync(image, '');
  truncateSync(image, 8 << 20);
  const remove = () => {
    spawnSync('umount', ['-l', path]);
    rmSync(image);
    // Never by `rm -r`: what is still mounted there is then left alone.
    spawnSync('rmdir', [path]);
    rmdirSync(directory);
  };
  const problem =
    run('mke2fs', '-q', '-t', 'ext2', '-O', '^filetype,^dir_index,^resize_inode', image) ??
    run('mkdir', path) ??
    run('mount', '-o', 'loop', image, path) ??
    run('rmdir', join(path, 'lost+found'));
  if (problem === undefined) return { path, remove };
  remove();
  return `a file system without types cannot be made here: ${problem}`;
}

/** What went wrong; undefined when it did its work. */
function run(command: string, ...args: string[]): string | undefined {
  const { status, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  return status === 0 ? undefined : `${command}: ${error?.message ?? stderr.trim()}`;
}
