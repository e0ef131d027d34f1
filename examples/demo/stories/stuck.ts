/** What no retry can mend is not retried: it is dead at once, nothing is touched, and a person is told why. */
import { symlinkSync } from 'node:fs';
import { join } from 'node:path';
import type { Narrator } from '../narrate.ts';
import { exists, storeDataset, stored, writeTraining } from '../props.ts';
import { RECORDED, type Stage } from '../stage.ts';
import { enqueued, only, perform, type Story } from '../story.ts';

const SESSION = '9b2d7c10-5a1e-4f3c-8d26-3f0a6c1e7b55';

export const stuck: Story = {
  title: 'Cleanups that cannot be carried out, and what a person does about them',
  async tell(stage, narrator) {
    await outsideEveryRoot(stage, narrator);
    await throughALink(stage, narrator);
    await noSuchBucket(stage, narrator);
    narrator.check('Nothing is stuck any more.', await stage.rows('SELECT FROM afterdelete.stuck'), []);
  },
};

/** A bug in the service: a path that the daemon was never allowed to delete. It is discarded. */
async function outsideEveryRoot(stage: Stage, narrator: Narrator): Promise<void> {
  const directory = join(stage.models, 'llama-3');
  const before = await writeTraining(directory, { steps: [1], layers: [1] });
  narrator.say('A service has a bug, and asks for a directory that its daemon was never meant to touch:');
  const id = only(await enqueued(stage, narrator, insert(`file://${directory}/`)));
  await showStuck(stage, narrator, id, 'outside every root');
  narrator.check('Nothing was touched.', stored(directory), before);
  narrator.say('Somebody reads that, and gives the cleanup up:');
  await discard(stage, narrator, id, 'the service had the wrong path');
  narrator.check('The directory is still there.', stored(directory), before);
}

/** A link in the middle of a path: it could lead anywhere by the time the file is deleted. It is discarded. */
async function throughALink(stage: Stage, narrator: Narrator): Promise<void> {
  symlinkSync('train_00d10dde', join(stage.trainings, 'latest'));
  const log = join(stage.trainings, 'train_00d10dde', 'logs.txt');
  narrator.say('Another names a file by way of a symbolic link:');
  const id = only(await enqueued(stage, narrator, insert(`file://${stage.trainings}/latest/logs.txt`)));
  await showStuck(stage, narrator, id, 'is a symbolic link');
  narrator.check('Links are never followed: the file is still there.', exists(log), true);
  await discard(stage, narrator, id, 'to be named by its real path');
}

/** A mistake in the set-up, which is put right; then the cleanup is tried again. */
async function noSuchBucket(stage: Stage, narrator: Narrator): Promise<void> {
  const { buckets } = stage.s3;
  const prefix = `sessions/${SESSION}/`;
  narrator.say('And a recording session is deleted, whose bucket does not exist:');
  const id = only(await enqueued(stage, narrator, insert(`s3://${RECORDED}/${prefix}`)));
  await showStuck(stage, narrator, id, 'NoSuchBucket');
  buckets.createBucket(RECORDED);
  const restored = storeDataset(buckets, RECORDED, prefix, 1);
  narrator.say('Somebody restores the bucket from a backup, and has the cleanup tried again:');
  const [answer] = await perform(stage, narrator, `SELECT afterdelete.retry(${id});`);
  narrator.check('It is taken up again.', answer, { retry: true });
  await stage.done(id);
  narrator.check('Done: what came back with the backup is deleted.', await stage.audit(id), {
    outcome: 'deleted',
    attempt: 1,
    ...restored,
  });
  narrator.check('No object of the session is left.', buckets.count(RECORDED, prefix), 0);
}

function insert(target: string): string {
  return `INSERT INTO afterdelete.pending_file_cleanup (target)
VALUES ('${target}') RETURNING id;`;
}

/** The row that a person sees, and a part of its message that must be in it. */
async function showStuck(stage: Stage, narrator: Narrator, id: string, message: string): Promise<void> {
  await stage.dead(id);
  const query = `SELECT state, reason, attempt, last_error FROM afterdelete.stuck WHERE id = ${id}`;
  const [row] = await perform(stage, narrator, `${query};`);
  narrator.record({ ...row });
  narrator.check(
    'It is dead at the first attempt, and says why.',
    { ...row, last_error: String(row?.last_error).includes(message) ? message : row?.last_error },
    { state: 'dead', reason: 'dead', attempt: 1, last_error: message },
  );
}

async function discard(stage: Stage, narrator: Narrator, id: string, note: string): Promise<void> {
  const [answer] = await perform(stage, narrator, `SELECT afterdelete.discard(${id}, '${note}');`);
  const audit = await stage.audit(id);
  narrator.check(
    'It is given up, which the audit trail tells.',
    [answer, audit?.outcome],
    [{ discard: true }, 'discarded'],
  );
}
