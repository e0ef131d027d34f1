/** Where files are quick to make and to remove. */
import { existsSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';

/** A directory in memory, where there is room; else the one for temporary files. */
export function quickPlace(): string {
  const place = '/dev/shm';
  if (!existsSync(place)) return tmpdir();
  const { bavail, bsize } = statfsSync(place);
  return bavail * bsize < 2 ** 30 ? tmpdir() : place;
}
