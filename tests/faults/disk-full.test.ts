/**
 * PostgreSQL runs out of disk in the middle of a burst. Promised: nothing is lost, done twice or burnt, and the daemon goes
 * on by itself when there is room again.
 */
import { chownSync, mkdirSync, statSync } from 'node:fs';
import { describe, it, onTestFinished } from 'vitest';
import { migrate } from '../../src/outbox/migrate.ts';
import { createBurst } from '../support/burst.ts';
import { openTestDatabase } from '../support/database.ts';
import { startPostgres } from '../support/postgres.ts';
import { countEvents, nextEvent, testReconciler, until, untilReady } from '../support/reconciler.ts';
import { createSmallDisk, smallDiskProblem } from '../support/small-disk.ts';

const problem = smallDiskProblem();
const title = (text: string) => (problem === undefined ? text : `${text} (skipped: ${problem})`);

describe('a disk of PostgreSQL that is full', () => {
  it.skipIf(problem)(
    title('refuses claims and settles for a while: the daemon tries on until there is room'),
    async () => {
      const disk = createSmallDisk(64);
      const server = await startPostgres();
      onTestFinished(() => server.destroy());
      const space = `${disk.path}/space`;
      mkdirSync(space);
      const { uid, gid } = statSync(`${server.directory}/data`);
      chownSync(space, uid, gid);
      const maintenance = openTestDatabase(server.url(), 'postgres');
      onTestFinished(() => maintenance.close());
      await maintenance.sql(`CREATE TABLESPACE small LOCATION '${space}'`);
      await maintenance.sql('CREATE DATABASE small TABLESPACE small');
      await migrate(server.url('small'));
      const db = openTestDatabase(server.url('small'), 'small');
      onTestFinished(() => db.close());

      const burst = createBurst(db, { holdAfter: 100 });
      const reconciler = testReconciler({
        databaseUrl: db.url,
        handlers: [burst.handler],
        prefetch: 200,
        lease: 2_000,
      });
      const some = countEvents(reconciler, 'cleanup_done', 50);
      await burst.write(2_000);
      await reconciler.start();
      await some;
      disk.fill();
      const refused = nextEvent(
        reconciler,
        'trouble',
        ({ error }) => (error as { code?: string }).code === '53100',
      );
      burst.release();
      await refused;
      disk.clear();
      await burst.expectDone();
      await untilReady(reconciler);
    },
  );

  it.skipIf(problem)(
    title('and holds its log too brings the server down: the daemon waits for it'),
    async () => {
      const disk = createSmallDisk(128);
      const server = await startPostgres({
        directory: `${disk.path}/pg`,
        fsync: 'on',
        flags: ['-c', 'max_wal_size=32MB', '-c', 'min_wal_size=32MB'],
      });
      onTestFinished(() => server.destroy());
      await migrate(server.url());
      const db = openTestDatabase(server.url(), 'postgres');
      onTestFinished(() => db.close());

      const burst = createBurst(db, { holdAfter: 100 });
      const reconciler = testReconciler({
        databaseUrl: db.url,
        handlers: [burst.handler],
        prefetch: 200,
        lease: 2_000,
      });
      const some = countEvents(reconciler, 'cleanup_done', 50);
      await burst.write(500);
      await reconciler.start();
      await some;
      const down = nextEvent(reconciler, 'trouble');
      disk.fill();
      // Others write as well, until there is no room for a word of it in the log, and it gives up.
      await until(
        () =>
          db.sql("SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000))").then(
            () => false,
            () => true,
          ),
        'the end of the server',
      );
      await down;
      burst.release();
      await server.stop('immediate');
      disk.clear();
      await server.start();
      await burst.expectDone();
      await untilReady(reconciler);
    },
  );
});
