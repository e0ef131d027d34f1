/** Heimdall's uploads: reserved, confirmed with their record, and cleaned up wherever it does not come to be. */
import type { Kysely, Transaction } from 'kysely';
import { expect, it } from 'vitest';
import type { Database } from '../../examples/heimdall/database.ts';
import { deleteDataset } from '../../examples/heimdall/service.ts';
import { generateDataset } from '../../examples/heimdall/upload.ts';
import { until } from '../support/reconciler.ts';
import { BUCKET, kyselyAs, openHeimdall, runDaemon, type Scene } from './heimdall-setup.ts';
import { audit, nothingWaits } from './support.ts';

const SAMPLES = 3;

/** The generator, as its own role: it may write cleanups, and see none. */
const generator = ({ db }: Scene) => ({ db: kyselyAs(db, 'heimdall_generator'), requestId: 'job 7, try 1' });

/** Stores one recording a sample below an address. */
function store({ s3 }: Scene, prefix: string): number {
  for (let sample = 0; sample < SAMPLES; sample++) {
    s3.buckets.put(BUCKET, `${prefix.slice(`s3://${BUCKET}/`.length)}sample-${sample}/rx_0.npy`, 'iq');
  }
  return SAMPLES;
}

const reservations = async ({ db }: Scene) =>
  await db.sql<{ target: string; delayed: boolean; actor: string }>(
    'SELECT target, run_at > now() AS delayed, actor FROM afterdelete.pending_file_cleanup ORDER BY id',
  );

it('a data set that is registered keeps its recordings, and loses them like any other', async () => {
  const scene = await openHeimdall();
  await runDaemon(scene);
  const id = await generateDataset(generator(scene), {
    name: 'v1',
    upload: async prefix => {
      // Committed before anything is written.
      expect(await reservations(scene)).toEqual([{ target: prefix, delayed: true, actor: 'job 7, try 1' }]);
      return store(scene, prefix);
    },
  });
  expect(await scene.db.sql('SELECT id, num_samples FROM heimdall.synthetic_datasets')).toEqual([
    { id, num_samples: SAMPLES },
  ]);
  expect(await scene.db.sql('SELECT FROM heimdall.synthetic_iq_samples')).toHaveLength(SAMPLES);
  expect(await reservations(scene)).toEqual([]);
  expect(await audit(scene.db)).toMatchObject([
    { target: `s3://${BUCKET}/synthetic/${id}/`, outcome: 'discarded' },
  ]);
  expect(scene.keys('')).toHaveLength(SAMPLES);
  await deleteDataset(scene.heimdall, id);
  await nothingWaits(scene.db);
  expect(scene.keys('')).toEqual([]);
});

it('a generator that ends in the middle leaves a reservation, which cleans up when it falls due', async () => {
  const scene = await openHeimdall();
  // It never comes back from its upload: what a process that was killed leaves behind.
  const killed = new Promise<never>(() => {});
  const uploading = new Promise<void>(resolve => {
    void generateDataset(generator(scene), {
      name: 'v1',
      reservedFor: '0 seconds',
      upload: async prefix => {
        store(scene, prefix);
        resolve();
        return await killed;
      },
    });
  });
  await uploading;
  expect(scene.keys('')).toHaveLength(SAMPLES);
  await runDaemon(scene);
  await nothingWaits(scene.db);
  expect(scene.keys('')).toEqual([]);
  expect(await audit(scene.db)).toMatchObject([{ outcome: 'deleted', objects: SAMPLES }]);
});

it('an upload that fails does not wait for that: what it had stored goes at once', async () => {
  const scene = await openHeimdall();
  await runDaemon(scene);
  const failing = generateDataset(generator(scene), {
    name: 'v1',
    upload: async prefix => {
      store(scene, prefix);
      throw new Error('the disk of the generator is full');
    },
  });
  await expect(failing).rejects.toThrow('the disk of the generator is full');
  await until(() => scene.keys('').length === 0, 'the recordings gone');
  // The reservation is there still; it will find nothing.
  expect(await reservations(scene)).toMatchObject([{ delayed: true }]);
});

it('a record that cannot be inserted leaves no recordings behind', async () => {
  const scene = await openHeimdall();
  await runDaemon(scene);
  const upload = async (prefix: string) => store(scene, prefix);
  const id = await generateDataset(generator(scene), { name: 'v1', upload });
  // The name is taken.
  await expect(generateDataset(generator(scene), { name: 'v1', upload })).rejects.toMatchObject({
    code: '23505',
  });
  await until(() => scene.keys('').length === SAMPLES, 'the recordings of the second gone');
  expect(scene.keys('')).toEqual(scene.keys(`synthetic/${id}/`));
});

it('a reservation that fell due before the record: nothing is registered, and nothing is left behind', async () => {
  const scene = await openHeimdall();
  await runDaemon(scene);
  const late = generateDataset(generator(scene), {
    name: 'v1',
    reservedFor: '0 seconds',
    upload: async prefix => {
      await nothingWaits(scene.db);
      // It knows nothing of that, and uploads.
      return store(scene, prefix);
    },
  });
  await expect(late).rejects.toThrow(/^cleanup \d+ cannot be confirmed: it is no longer pending/);
  expect(await scene.db.sql('SELECT FROM heimdall.synthetic_datasets')).toEqual([]);
  await nothingWaits(scene.db);
  expect(scene.keys('')).toEqual([]);
});

it('where only the answer to COMMIT is lost, the data set is there, and so are its recordings', async () => {
  const scene = await openHeimdall();
  await runDaemon(scene);
  const { db, requestId } = generator(scene);
  let commits = 0;
  const execute = async <T>(work: (tx: Transaction<Database>) => Promise<T>): Promise<T> => {
    const result = await db.transaction().execute(work);
    // The first is the reservation.
    if (++commits === 2) throw new Error('Connection terminated unexpectedly');
    return result;
  };
  const cut = { transaction: () => ({ execute }) } as unknown as Kysely<Database>;
  const upload = async (prefix: string) => store(scene, prefix);
  await expect(generateDataset({ db: cut, requestId }, { name: 'v1', upload })).rejects.toThrow('terminated');
  await nothingWaits(scene.db);
  expect(scene.keys('')).toHaveLength(SAMPLES);
  expect((await audit(scene.db)).map(({ outcome }) => outcome).sort()).toEqual(['discarded', 'kept']);
  expect(await scene.db.sql('SELECT FROM heimdall.synthetic_datasets')).toHaveLength(1);
});
