/** Seed: deleting a data set left its IQ recordings in MinIO, "with no way to identify ownership". */
import { count, size } from '../narrate.ts';
import { storeDataset } from '../props.ts';
import { SYNTHETIC } from '../stage.ts';
import { enqueued, only, type Story } from '../story.ts';

const ID = '550e8400-e29b-41d4-a716-446655440000';

export const dataset: Story = {
  title: 'A data set of 2,500 objects is deleted from S3',
  async tell(stage, narrator) {
    const { buckets } = stage.s3;
    const prefix = `synthetic/${ID}/`;
    // Not a UUID, but a key that begins like the data set's: only the slash tells them apart.
    const neighbour = `synthetic/${ID}0/`;
    const before = storeDataset(buckets, SYNTHETIC, prefix, 500);
    const beside = storeDataset(buckets, SYNTHETIC, neighbour, 2);
    await stage.rows("INSERT INTO synthetic_datasets (id, name) VALUES ($1, 'summer')", [ID]);
    narrator.check(
      `The data set is stored: ${count(before.objects)} objects, ${size(before.bytes)}.`,
      [before.objects, buckets.count(SYNTHETIC, prefix)],
      [2500, 2500],
    );

    narrator.say(
      'A service may also call a function, which is the same INSERT. A slash at the end means "everything below":',
    );
    stage.s3.forgetRequests();
    const id = only(
      await enqueued(
        stage,
        narrator,
        `BEGIN;
DELETE FROM synthetic_datasets WHERE id = '${ID}';
SELECT afterdelete.enqueue('s3://${SYNTHETIC}/${prefix}',
                           source => 'data set summer deleted') AS id;
COMMIT;`,
      ),
    );
    await stage.done(id);

    narrator.check('No object of it is left.', buckets.count(SYNTHETIC, prefix), 0);
    const deletes = stage.s3.requests.filter(({ operation }) => operation === 'DeleteObjects');
    narrator.check(
      `By the server's log, that took ${deletes.length} DeleteObjects requests: 1,000, 1,000 and 500 keys.`,
      deletes.map(({ keys }) => keys.length).sort((a, b) => b - a),
      [1000, 1000, 500],
    );
    narrator.check(
      `The audit trail tells what that was: ${count(before.objects)} objects, ${size(before.bytes)} freed.`,
      await stage.audit(id),
      { outcome: 'deleted', attempt: 1, ...before },
    );
    narrator.check(
      `Its neighbour ${neighbour} has lost nothing.`,
      buckets.count(SYNTHETIC, neighbour),
      beside.objects,
    );
  },
};
