import { describe, expect, it } from 'vitest';
import { runCommand } from '../support/command.ts';
import { startDaemon } from '../support/daemon.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { createDisk } from '../support/disk.ts';

const status = (db: TestDatabase, ...args: string[]) =>
  runCommand(['status', ...args], { env: { DATABASE_URL: db.url } });

/** A row that was given up. */
async function writeDead(
  db: TestDatabase,
  id: number,
  target: string,
  error = 'access denied',
): Promise<void> {
  await db.sql(
    `INSERT INTO afterdelete.dead_file_cleanup (id, target, attempt, last_error, created_at, died_at)
     VALUES ($1, $2, 3, $3, now() - interval '2 hours', now())`,
    [id, target, error],
  );
}

describe('status', () => {
  it('of an empty database says so', async () => {
    const { code, stdout } = await status(await createDatabase());
    expect(code).toBe(0);
    expect(stdout).toBe('Nothing waits, and no daemon has been here yet.\n\nNo daemon runs.\n');
  });

  it('shows the backlog, pauses, daemons and what is stuck', async () => {
    const db = await createDatabase();
    const disk = createDisk();
    const daemon = startDaemon({ databaseUrl: db.url, roots: [disk.root] });
    await daemon.waitFor('started');
    await db.sql("SELECT afterdelete.pause('s3://bucket', 'ask Ada')");
    await db.sql("SELECT afterdelete.enqueue('s3://bucket/key')");
    await db.sql("SELECT afterdelete.enqueue('s3://bucket/later', '1 day')");
    await writeDead(db, 1000, 's3://bucket/dead/');
    const { code, stdout, stderr } = await status(db);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const lines = stdout.split('\n');
    expect(lines[0]).toMatch(/^STORE +DUE +DELAYED +RETRYING +RUNNING +DEAD +OLDEST +PAUSED +SERVED$/);
    expect(lines[1]).toMatch(/^file:\/\/ +0 +0 +0 +0 +0 +- +no +yes$/);
    expect(lines[2]).toMatch(/^s3:\/\/bucket +1 +1 +0 +0 +1 +\d+s +PAUSED +NO$/);
    const columns = lines.slice(0, 3).map(line => line.search(/\bOLDEST|\d+s|- +no/));
    expect(new Set(columns).size).toBe(1);
    expect(stdout).toMatch(
      /s3:\/\/bucket {2}for all daemons by operator, \d+s ago: ask Ada \(afterdelete resume s3:\/\/bucket\)/,
    );
    expect(stdout).toContain(`${(await daemon.waitFor('started')).worker}`);
    expect(stdout).toMatch(
      /1000 {2}dead {2}"s3:\/\/bucket\/dead\/" {2}\(2h, 3 attempts\)\n {6}access denied/,
    );
    expect(stdout).toMatch(/1 {2}unserved {2}"s3:\/\/bucket\/key"/);
  });

  it('obeys no control characters that somebody wrote into a row', async () => {
    const db = await createDatabase();
    await writeDead(db, 1, 's3://b/\u001b[2J\u0085\u202e', 'over\rwritten \u001b[31m');
    const { stdout } = await status(db);
    expect(stdout).toContain('\\u001b[2J');
    expect(stdout).toContain('over\\u000dwritten \\u001b[31m');
    // biome-ignore lint/suspicious/noControlCharactersInRegex: finding control characters is what it is for
    expect(stdout).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202e]/);
  });

  it('shows the ten oldest of many, and how many there are', async () => {
    const db = await createDatabase();
    for (let id = 1; id <= 12; id++) await writeDead(db, id, `s3://b/${id}`);
    const { stdout } = await status(db);
    expect(stdout).toContain('Stuck (the 10 oldest of 12):');
    expect(stdout.match(/access denied/g)).toHaveLength(10);
  });

  it('--json is for programs', async () => {
    const db = await createDatabase();
    await db.sql("SELECT afterdelete.pause('s3://bucket', 'ask Ada')");
    await db.sql("SELECT afterdelete.enqueue('s3://bucket/key')");
    await writeDead(db, 1000, 's3://bucket/dead');
    const { code, stdout } = await status(db, '--json');
    expect(code).toBe(0);
    const all = JSON.parse(stdout);
    expect(Object.keys(all)).toEqual(['backlog', 'pauses', 'workers', 'stuck']);
    expect(all.backlog).toEqual([
      {
        store: 's3://bucket',
        pending: 1,
        due: 1,
        delayed: 0,
        retrying: 0,
        running: 0,
        dead: 1,
        oldest_due_at: expect.any(String),
        oldest_due_seconds: expect.any(Number),
        paused: true,
        served: false,
        estimated: false,
      },
    ]);
    expect(all.pauses).toMatchObject([
      { store: 's3://bucket', by: 'operator', reason: 'ask Ada', worker: null },
    ]);
    expect(all.workers).toEqual([]);
    expect(all.stuck).toMatchObject([
      { id: '1000', state: 'dead', reason: 'dead', target: 's3://bucket/dead', last_error: 'access denied' },
      { id: '1', state: 'pending', reason: 'unserved', target: 's3://bucket/key' },
    ]);
  });
});
