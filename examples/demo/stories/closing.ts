/** What has happened, as the database tells it; and where to look on. */
import { readdirSync } from 'node:fs';
import { count, size } from '../narrate.ts';
import { SYNTHETIC } from '../stage.ts';
import { perform, type Story } from '../story.ts';

const SUMMARY = `SELECT outcome, count(*)::integer AS cleanups,
       coalesce(sum(objects_deleted), 0)::integer AS objects, coalesce(sum(bytes_freed), 0)::integer AS bytes
  FROM afterdelete.done_file_cleanup GROUP BY outcome ORDER BY outcome;`;

export const closing: Story = {
  title: 'What has happened, and what you can look at',
  async tell(stage, narrator) {
    narrator.say('Whatever ended is in the audit trail:');
    const rows = await perform(stage, narrator, SUMMARY);
    for (const { outcome, cleanups, objects, bytes } of rows) {
      narrator.record({
        [String(outcome)]:
          `${count(Number(cleanups))} cleanups, ${count(Number(objects))} files and objects, ${size(Number(bytes))} freed`,
      });
    }
    const expected = [...stage.ended].map(([outcome, sum]) => ({ outcome, ...sum }));
    narrator.check(
      'That is what the stories above have seen, to the byte.',
      rows,
      expected.sort((a, b) => (a.outcome < b.outcome ? -1 : 1)),
    );
    narrator.check('Nothing waits, runs or is dead.', await stage.waiting(), 0);
    narrator.check(
      'Of the trainings, those are left that nobody deleted: the neighbour, and the one of the rollback.',
      readdirSync(stage.trainings).sort(),
      ['.afterdelete-root', 'latest', 'train_00d10dde', 'train_36766f85_v2'],
    );
    narrator.check("Of the data sets, the neighbour's objects.", stage.s3.buckets.count(SYNTHETIC), 10);

    narrator.say('On your own database, once a daemon runs:');
    narrator.record({
      'afterdelete.backlog': 'how much waits, one row a store',
      'afterdelete.stuck': 'every row that a person should look at, and why',
      'afterdelete.done_file_cleanup': 'the audit trail',
      'afterdelete status': 'the same on the command line; `afterdelete --help` lists the other commands',
      'http://127.0.0.1:9464/metrics': 'the same for Prometheus',
      'examples/demo/stories/': 'the stories you have just read, as code',
    });
  },
};
