import { describe, expect, it } from 'vitest';
import { bundledMigrations } from '../../src/outbox/migrate.ts';
import { runCommand } from '../support/command.ts';
import { createDatabase } from '../support/database.ts';
import { databaseUrl } from '../support/server.ts';

describe('migrate', () => {
  it('makes the schema, and has nothing to do the second time', async () => {
    const db = await createDatabase({ empty: true });
    const env = { DATABASE_URL: db.url };
    const first = await runCommand(['migrate'], { env });
    expect(first).toMatchObject({ code: 0, stderr: '' });
    for (const { name } of bundledMigrations()) expect(first.stdout).toContain(`applied ${name}\n`);
    expect(await db.sql('SELECT FROM afterdelete.backlog')).toEqual([]);
    const second = await runCommand(['migrate'], { env });
    expect(second).toEqual({ code: 0, stderr: '', stdout: 'nothing to do: the schema is up to date\n' });
  });

  it('takes the direct connection where there is one', async () => {
    const db = await createDatabase({ empty: true });
    const env = { DATABASE_URL: databaseUrl(db.url, 'not_this_one'), AFTERDELETE_LISTEN_URL: db.url };
    expect(await runCommand(['migrate'], { env })).toMatchObject({ code: 0 });
    expect(await runCommand(['status'], { env: { DATABASE_URL: db.url } })).toMatchObject({ code: 0 });
  });

  it('prints the SQL without any settings; what it prints makes the same schema', async () => {
    const { code, stdout } = await runCommand(['migrate', '--sql']);
    expect(code).toBe(0);
    const db = await createDatabase({ empty: true });
    await db.sql(stdout);
    expect(await runCommand(['migrate'], { env: { DATABASE_URL: db.url } })).toMatchObject({
      code: 0,
      stdout: 'nothing to do: the schema is up to date\n',
    });
  });

  it('refuses a schema that it does not know', async () => {
    const db = await createDatabase();
    await db.sql("INSERT INTO afterdelete.migration (name, checksum) VALUES ('99_future', 'x')");
    const { code, stderr } = await runCommand(['migrate'], { env: { DATABASE_URL: db.url } });
    expect(code).toBe(1);
    expect(stderr).toMatch(/^error: .*99_future.*\n$/);
  });
});
