/** What the services have stored: trainings on disk, data sets in S3. Small stand-ins for the real ones. */
import { lstatSync, readdirSync } from 'node:fs';
import { mkdir, open } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Buckets } from '../../tests/s3-server/store.ts';

export interface Stored {
  readonly objects: number;
  readonly bytes: number;
}

/** A checkpoint of one layer: 257 MB in the real ones. */
const CHECKPOINT = Buffer.alloc(64 * 1024, 'w');

export function checkpointPath(training: string, step: number, layer: number): string {
  return join(training, 'checkpoints', `checkpoint_${step}`, `layer_${layer}`, 'checkpoint.safetensors');
}

/** Writes a training: its log, and a checkpoint for each step and layer. Returns what lies on the disk now. */
export async function writeTraining(
  directory: string,
  { steps, layers }: { readonly steps: readonly number[]; readonly layers: readonly number[] },
): Promise<Stored> {
  await write(join(directory, 'logs.txt'), Buffer.from('epoch 1: loss 0.42\n'));
  for (const step of steps) {
    for (const layer of layers) await write(checkpointPath(directory, step, layer), CHECKPOINT);
  }
  return stored(directory);
}

async function write(path: string, content: Uint8Array): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const file = await open(path, 'w');
  try {
    await file.writeFile(content);
    // Until it is written, a file system may not know how much room a file takes.
    await file.sync();
  } finally {
    await file.close();
  }
}

/** The files below a directory, and the room they take: what `du` says, which is what deleting them frees. */
export function stored(directory: string): Stored {
  const files = readdirSync(directory, { recursive: true, withFileTypes: true }).filter(entry =>
    entry.isFile(),
  );
  const sizes = files.map(file => lstatSync(join(file.parentPath, file.name)).blocks * 512);
  return { objects: files.length, bytes: sizes.reduce((sum, bytes) => sum + bytes, 0) };
}

/** Whether anything is there: a file, a directory, a link. */
export function exists(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}

const RECEIVERS = 5;

/** Stores a data set: for each sample, what five receivers heard. Returns what lies in the bucket now. */
export function storeDataset(buckets: Buckets, bucket: string, prefix: string, samples: number): Stored {
  const recording = Buffer.alloc(400, 'iq');
  for (let sample = 0; sample < samples; sample++) {
    for (let receiver = 0; receiver < RECEIVERS; receiver++) {
      buckets.put(bucket, `${prefix}sample-${sample}/rx_${receiver}.npy`, recording);
    }
  }
  return { objects: samples * RECEIVERS, bytes: samples * RECEIVERS * recording.length };
}
