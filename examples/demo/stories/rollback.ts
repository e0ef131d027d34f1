/** Seed, edge case: "database deletion fails: no file clean-up queued". */
import { join } from 'node:path';
import { count } from '../narrate.ts';
import { stored, writeTraining } from '../props.ts';
import { perform, type Story } from '../story.ts';

export const rollback: Story = {
  title: 'A transaction rolls back, and nothing is deleted',
  async tell(stage, narrator) {
    const directory = join(stage.trainings, 'train_00d10dde');
    const before = await writeTraining(directory, { steps: [498000], layers: [7, 14, 18] });
    await stage.run("INSERT INTO trainings (id) VALUES ('train_00d10dde')");

    narrator.say(
      'The same once more, but this time the service changes its mind, or crashes. Had it deleted the files first, there would now be a training without any:',
    );
    await perform(
      stage,
      narrator,
      `BEGIN;
DELETE FROM trainings WHERE id = 'train_00d10dde';
INSERT INTO afterdelete.pending_file_cleanup (target, source)
VALUES ('file://${directory}/',
        'training train_00d10dde deleted');
ROLLBACK;`,
    );
    const rows = await stage.rows("SELECT FROM trainings WHERE id = 'train_00d10dde'");
    narrator.check('The row is still there.', rows.length, 1);
    narrator.check(
      'The outbox is empty: what was rolled back was never asked for.',
      await stage.waiting(),
      0,
    );
    narrator.check(`All ${count(before.objects)} files are where they were.`, stored(directory), before);
  },
};
