/** The audit trail has no partition for today. Promised: nothing waits for one, and nothing is lost when it is made. */
import { expect, it } from 'vitest';
import { createBurst } from '../support/burst.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { testReconciler, until } from '../support/reconciler.ts';

/** The partitions that hold rows, with how many. */
const rows = async (db: TestDatabase) =>
  await db.sql<{ part: string; n: number }>(
    'SELECT tableoid::regclass::text AS part, count(*)::int AS n FROM afterdelete.done_file_cleanup GROUP BY 1 ORDER BY 1',
  );

it('rows are done into the default partition, and a later maintenance moves them to their day', async () => {
  const db = await createDatabase();
  const burst = createBurst(db);
  const first = testReconciler({ databaseUrl: db.url, handlers: [burst.handler], lease: 1_000 });
  const { maintainHistory } = first.outbox;
  let maintained = 0;
  first.outbox.maintainHistory = async () => {
    const result = await maintainHistory.apply(first.outbox);
    maintained += 1;
    return result;
  };
  await first.start();
  await until(() => maintained === 1, 'the first maintenance');
  // The next one is an hour away.
  await db.sql(`DO $$ DECLARE part text; BEGIN
    FOR part IN SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'afterdelete.done_file_cleanup'::regclass
                   AND inhrelid <> 'afterdelete.done_file_cleanup_default'::regclass LOOP
      EXECUTE 'DROP TABLE ' || part;
    END LOOP;
  END $$`);
  await burst.write(200);
  await burst.expectDone();
  expect(await rows(db)).toEqual([{ part: 'afterdelete.done_file_cleanup_default', n: 200 }]);

  const second = testReconciler({ databaseUrl: db.url, handlers: [burst.anotherHandler()], lease: 1_000 });
  await second.start();
  await until(async () => (await rows(db)).every(({ part }) => /_\d{8}$/.test(part)), 'the day’s partition');
  await burst.write(10);
  await burst.expectDone();
});
