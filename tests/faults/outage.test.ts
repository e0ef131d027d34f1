/** What a person reads of an outage of PostgreSQL: that it began, that it is over, and not a line a second in between. */
import { expect, it, onTestFinished } from 'vitest';
import { migrate } from '../../src/outbox/migrate.ts';
import { type LogLine, startDaemon } from '../support/daemon.ts';
import { openTestDatabase } from '../support/database.ts';
import { createDisk } from '../support/disk.ts';
import { startPostgres } from '../support/postgres.ts';
import { until } from '../support/reconciler.ts';

it('PostgreSQL that is away for a while is said once, readyz tells, and its return is said too', async () => {
  const server = await startPostgres();
  onTestFinished(() => server.destroy());
  await migrate(server.url());
  const disk = createDisk();
  const daemon = startDaemon({
    databaseUrl: server.url(),
    roots: [disk.root],
    env: { AFTERDELETE_LEASE: '8s' },
  });
  await daemon.waitFor('listen_restored');
  const lost = daemon.next('listen_lost');
  await server.stop();
  await lost;
  const trouble = (line: LogLine) => line.doing === 'claiming';
  await daemon.waitFor('trouble', trouble);
  await until(async () => (await daemon.get('/readyz')).status === 503, 'readyz to tell');
  // Heartbeats and claims have failed many times by now.
  await until(
    async () => (await daemon.get('/readyz')).text.includes('does not answer'),
    'readyz to say why',
  );
  const recovered = daemon.next('recovered');
  await server.start();
  await recovered;
  await until(async () => (await daemon.get('/readyz')).status === 200, 'readyz to be well');
  expect(daemon.lines.filter(line => line.event === 'trouble' && trouble(line))).toHaveLength(1);
  for (const line of daemon.lines) expect(JSON.stringify(line).length).toBeLessThan(2_000);

  const db = openTestDatabase(server.url(), 'postgres');
  onTestFinished(() => db.close());
  await db.sql('SELECT afterdelete.enqueue($1)', [disk.write('after')]);
  await daemon.waitFor('cleanup_done');
});
