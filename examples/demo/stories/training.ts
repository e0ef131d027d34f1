/** Seed: `delete_training()` deleted the row and never the files. 44 directories, 161 GB, belonged to nobody. */
import { join } from 'node:path';
import { count, size } from '../narrate.ts';
import { exists, stored, writeTraining } from '../props.ts';
import { enqueued, only, type Story } from '../story.ts';

export const training: Story = {
  title: 'A training is deleted, and its files go with it',
  async tell(stage, narrator) {
    const directory = join(stage.trainings, 'train_36766f85');
    // Its name begins like the other's: a careless prefix would take it along.
    const neighbour = join(stage.trainings, 'train_36766f85_v2');
    const layers = [7, 14, 18];
    const before = await writeTraining(directory, { steps: [496000, 498000], layers });
    const beside = await writeTraining(neighbour, { steps: [498000], layers });
    await stage.run("INSERT INTO trainings (id) VALUES ('train_36766f85'), ('train_36766f85_v2')");

    narrator.say(
      `The training train_36766f85 has ${count(before.objects)} files on disk. A service deletes it, and says in the same transaction what else has to go:`,
    );
    const committed = performance.now();
    const id = only(
      await enqueued(
        stage,
        narrator,
        `BEGIN;
DELETE FROM trainings WHERE id = 'train_36766f85';
INSERT INTO afterdelete.pending_file_cleanup (target, source)
VALUES ('file://${directory}/',
        'training train_36766f85 deleted')
RETURNING id;
COMMIT;`,
      ),
    );
    await stage.done(id);
    const took = Math.round(performance.now() - committed);

    const rows = await stage.rows("SELECT FROM trainings WHERE id = 'train_36766f85'");
    narrator.check('The row is gone.', rows.length, 0);
    narrator.check(`So is the directory, ${took} ms after the transaction began.`, exists(directory), false);
    narrator.check(
      `The audit trail tells what that was: ${count(before.objects)} files, ${size(before.bytes)} freed.`,
      await stage.audit(id),
      { outcome: 'deleted', attempt: 1, ...before },
    );
    narrator.check('Its neighbour train_36766f85_v2 has lost nothing.', stored(neighbour), beside);
  },
};
