/** Seed: 248 checkpoints were deleted, and 248 empty directories stayed behind. */
import { dirname, join } from 'node:path';
import type { Narrator } from '../narrate.ts';
import { checkpointPath, exists } from '../props.ts';
import type { Stage } from '../stage.ts';
import { enqueued, type Story } from '../story.ts';

export const checkpoint: Story = {
  title: 'A checkpoint is deleted, and its empty directories go too',
  async tell(stage, narrator) {
    const training = join(stage.trainings, 'train_00d10dde');
    const file = (layer: number) => checkpointPath(training, 498000, layer);
    const step = dirname(dirname(file(7)));
    await stage.rows(
      `INSERT INTO checkpoints (training_id, step, layer, storage_path)
       SELECT 'train_00d10dde', 498000, layer, $1 || '/layer_' || layer || '/checkpoint.safetensors'
         FROM unnest('{7,14,18}'::integer[]) AS layer`,
      [step],
    );

    narrator.say(
      'Each checkpoint is a file in a directory of its layer, in one of its step. The service deletes layer 7; prune_parents says how many directories above the file may go with it, if they are empty:',
    );
    await deleteLayers(stage, narrator, [7]);
    narrator.check(
      'The file checkpoint_498000/layer_7/checkpoint.safetensors is gone.',
      exists(file(7)),
      false,
    );
    narrator.check('So is the directory layer_7/, now empty.', exists(dirname(file(7))), false);
    narrator.check(
      'checkpoint_498000/ stays: it still has layers 14 and 18.',
      [14, 18].map(file).every(exists),
      true,
    );

    narrator.say('Then the other two:');
    await deleteLayers(stage, narrator, [14, 18]);
    narrator.check('With its last layer, checkpoint_498000/ has gone as well.', exists(step), false);
    narrator.check(
      'checkpoints/ is empty now, and stays: two levels were asked for, and it is the third.',
      exists(dirname(step)),
      true,
    );
    narrator.check(
      "The training's own directory stays, with its log.",
      exists(join(training, 'logs.txt')),
      true,
    );
  },
};

/** One statement is a transaction, too: what it deletes tells what to write. */
async function deleteLayers(stage: Stage, narrator: Narrator, layers: readonly number[]): Promise<void> {
  const ids = await enqueued(
    stage,
    narrator,
    `WITH gone AS (
  DELETE FROM checkpoints WHERE training_id = 'train_00d10dde' AND layer IN (${layers.join(', ')})
  RETURNING storage_path
)
INSERT INTO afterdelete.pending_file_cleanup (target, prune_parents, source)
SELECT 'file://' || storage_path, 2, 'checkpoint deleted' FROM gone
RETURNING id;`,
  );
  const deleted: (number | undefined)[] = [];
  for (const id of ids) {
    await stage.done(id);
    deleted.push((await stage.audit(id))?.objects);
  }
  narrator.check(
    layers.length === 1
      ? 'That wrote a cleanup, which has deleted one file.'
      : `That wrote ${layers.length} cleanups, each of which has deleted one file.`,
    deleted,
    layers.map(() => 1),
  );
}
