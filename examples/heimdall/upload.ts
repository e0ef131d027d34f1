/**
 * Heimdall's generator: recordings are uploaded, and then their data set is registered. Between the two nobody holds
 * them; so they are reserved first, and cleaned up unless the data set comes to be.
 */
import { randomUUID } from 'node:crypto';
import { sql } from 'kysely';
import { confirm, enqueue } from '../../src/index.ts';
import { type Heimdall, transaction } from './service.ts';

export interface Generation {
  readonly name: string;
  readonly jobId?: string;
  /** Uploads below this address, and resolves with the number of samples when all of it is stored. */
  readonly upload: (prefix: string) => Promise<number>;
  /** Longer than any upload takes. Default: 6 hours. */
  readonly reservedFor?: string;
}

/** Uploads a data set of type iq_raw and registers it; returns its id. Whatever fails, no recording is left behind. */
export async function generateDataset(
  heimdall: Pick<Heimdall, 'db' | 'requestId'>,
  { name, jobId, upload, reservedFor = '6 hours' }: Generation,
): Promise<string> {
  // A new id for each try: a prefix that is being cleaned up is not written to again.
  const id = randomUUID();
  const prefix = `s3://heimdall-synthetic-iq/synthetic/${id}/`;
  const source = `upload of the data set ${name}`;
  // Committed before the first byte is written: where this process ends, from here on, the reservation falls due.
  const reservation = await transaction(heimdall, tx => enqueue(tx, prefix, { delay: reservedFor, source }));
  try {
    const samples = await upload(prefix);
    await transaction(heimdall, async tx => {
      await tx
        .insertInto('heimdall.synthetic_datasets')
        .values({
          id,
          name,
          dataset_type: 'iq_raw',
          num_samples: samples,
          created_by_job_id: jobId ?? null,
        })
        .execute();
      await sql`
        INSERT INTO heimdall.synthetic_iq_samples (dataset_id, sample_index)
        SELECT ${id}::uuid, generate_series(0, ${samples}::integer - 1)`.execute(tx);
      // Raises when the reservation has fallen due: no data set is registered whose recordings are gone, or going.
      await confirm(tx, reservation);
    });
  } catch (error) {
    // Nobody need wait for the reservation; and what was written after it had fallen due goes, too. Where only the answer
    // to COMMIT was lost, the data set is there, holds its recordings, and this cleanup ends as `kept`. Where this fails
    // as well, there is still the reservation.
    await transaction(heimdall, tx => enqueue(tx, prefix, { source: `${source} failed` })).catch(() => {});
    throw error;
  }
  return id;
}
