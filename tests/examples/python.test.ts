/** A service in Python writes its cleanups with SQLAlchemy: no TypeScript is needed on the writing side. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it, type TestContext } from 'vitest';
import { createFileHandler } from '../../src/index.ts';
import { createDatabase } from '../support/database.ts';
import { createDisk } from '../support/disk.ts';
import { testReconciler, until } from '../support/reconciler.ts';
import { createPython, type Python } from './python-setup.ts';
import { audit, cleanups, example, write } from './support.ts';

let python: Python | string = 'it has not been looked for yet';

beforeAll(async () => {
  python = await createPython();
  // A plain report of skipped tests does not give their reasons.
  if (typeof python === 'string') console.warn(`The example in Python is skipped: ${python}`);
}, 480_000);

afterAll(() => {
  if (typeof python !== 'string') python.remove();
});

/** The service with its tables, a training with two checkpoints and a neighbour, and a daemon at work. */
async function setUp(test: TestContext) {
  if (typeof python === 'string') return test.skip(`no Python to run the example with: ${python}`);
  const { run } = python;
  const db = await createDatabase();
  const disk = createDisk();
  const trainings = disk.at('data/trainings');
  const env = { DATABASE_URL: db.url, MISTUDIO_DATA: disk.at('data') };
  const service = async (...args: string[]) => await run([example('python/service.py'), ...args], env);
  expect(await service('create-tables')).toEqual({ code: 0, stdout: '', stderr: '' });
  const path = (layer: number) =>
    join(trainings, `train_1/checkpoint_5/layer_${layer}/checkpoint.safetensors`);
  for (const layer of [7, 14]) write(path(layer));
  write(join(trainings, 'train_1/logs.txt'));
  write(join(trainings, 'train_10/logs.txt'));
  await db.sql("INSERT INTO trainings VALUES ('train_1'), ('train_10')");
  await db.sql("INSERT INTO checkpoints VALUES ('train_1', 5, 7, $1), ('train_1', 5, 14, $2)", [
    path(7),
    path(14),
  ]);
  const reconciler = testReconciler({
    databaseUrl: db.url,
    roots: [`file://${trainings}/`],
    handlers: [createFileHandler()],
  });
  await reconciler.start();
  return {
    db,
    trainings,
    path,
    service,
    /** Runs lines of Python inside a transaction of the service, indented by four spaces. */
    script: async (lines: string) =>
      await run(
        [
          '-c',
          `import os\nfrom service import *\nwith Session(connect(os.environ["DATABASE_URL"])) as session, session.begin():\n${lines}`,
        ],
        env,
      ),
    done: async (count: number) =>
      await until(async () => (await audit(db)).length === count, `${count} cleanups done`),
  };
}

it('a training is deleted, with its checkpoints by cascade, and its directory goes', async test => {
  const { db, trainings, service, done } = await setUp(test);
  expect(await service('delete-training', 'train_1')).toEqual({
    code: 0,
    stdout: 'deleted; cleanup 1\n',
    stderr: '',
  });
  await done(1);
  expect(readdirSync(trainings).sort()).toEqual(['.afterdelete-root', 'train_10']);
  expect(await audit(db)).toMatchObject([{ outcome: 'deleted', objects: 3 }]);
  expect(await db.sql('SELECT FROM checkpoints')).toEqual([]);
  expect(await db.sql('SELECT source FROM afterdelete.done_file_cleanup')).toEqual([
    { source: 'training train_1 deleted' },
  ]);
});

it('a checkpoint is deleted, and its directories go with the last layer', async test => {
  const { path, service, done } = await setUp(test);
  await service('delete-checkpoint', 'train_1', '5', '7');
  await done(1);
  expect(readdirSync(join(path(7), '../..'))).toEqual(['layer_14']);
  await service('delete-checkpoint', 'train_1', '5', '14');
  await done(2);
  expect(readdirSync(join(path(7), '../../..'))).toEqual(['logs.txt']);
});

it('a rollback deletes nothing', async test => {
  const { db, trainings, script, service, done } = await setUp(test);
  const failed = await script(
    '    delete_training(session, "train_1")\n    session.flush()\n    raise RuntimeError("too late")\n',
  );
  expect(failed.code).toBe(1);
  expect(failed.stderr).toContain('RuntimeError: too late');
  expect(await cleanups(db)).toBe(0);
  expect(await db.sql('SELECT FROM trainings')).toHaveLength(2);
  // The daemon is at work all the same: what is committed goes.
  await service('delete-training', 'train_10');
  await done(1);
  expect(existsSync(join(trainings, 'train_1/logs.txt'))).toBe(true);
});

it('nor does a savepoint that is rolled back, in a transaction that is committed', async test => {
  const { db, trainings, script, done } = await setUp(test);
  const committed = await script(
    [
      '    delete_training(session, "train_10")',
      '    with session.begin_nested() as savepoint:',
      '        delete_training(session, "train_1")',
      '        savepoint.rollback()\n',
    ].join('\n'),
  );
  expect(committed).toEqual({ code: 0, stdout: '', stderr: '' });
  await done(1);
  expect(await cleanups(db)).toBe(1);
  expect(readdirSync(trainings).sort()).toEqual(['.afterdelete-root', 'train_1']);
});

it('a target that is refused names the rule, and takes the whole transaction back', async test => {
  const { db, script } = await setUp(test);
  const refused = await script(
    '    session.delete(session.get(Training, "train_1"))\n    enqueue(session, "file:///data/../etc/passwd")\n',
  );
  expect(refused.code).toBe(1);
  expect(refused.stderr).toContain('IntegrityError');
  expect(refused.stderr).toContain('target_has_no_dot_segments');
  expect(await db.sql('SELECT FROM trainings')).toHaveLength(2);
});

it('a training that does not exist is an error that says so', async test => {
  const { db, service } = await setUp(test);
  expect(await service('delete-training', 'train_nope')).toEqual({
    code: 1,
    stdout: '',
    stderr: 'Training not found: train_nope\n',
  });
  expect(await cleanups(db)).toBe(0);
});
