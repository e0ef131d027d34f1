/** The schema is brought up to date, once, by whoever comes first; nobody else has to wait for it. */
import { createHash } from 'node:crypto';
import { describe, expect, inject, it, onTestFinished } from 'vitest';
import {
  assertSchema,
  bundledMigrations,
  type Migration,
  migrate,
  migrationScript,
  SchemaMismatchError,
} from '../../src/outbox/migrate.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { databaseUrl } from '../support/server.ts';
import { atServer, openOutbox, value } from './rows.ts';

const bundled = bundledMigrations();
const names = bundled.map(migration => migration.name);
const migration = (name: string, sql: string): Migration => ({
  name,
  sql,
  checksum: createHash('sha256').update(sql).digest('hex'),
});
const applied = async (db: TestDatabase) =>
  (await db.sql<{ name: string }>('SELECT name FROM afterdelete.migration ORDER BY name')).map(
    row => row.name,
  );

/** Everything that a migration makes, with its comments, in a form that can be compared. */
async function catalog(db: TestDatabase): Promise<unknown> {
  const ours = "n.nspname = 'afterdelete'";
  const [relations, columns, constraints, indexes, functions, triggers, views, types] = await Promise.all([
    db.sql(
      `SELECT c.relname, c.relkind, c.reloptions, c.relacl::text, obj_description(c.oid, 'pg_class') AS comment FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE ${ours} ORDER BY 1`,
    ),
    db.sql(`SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull, a.attidentity, a.attgenerated, l.collname,
                   pg_get_expr(d.adbin, d.adrelid) AS def, col_description(c.oid, a.attnum) AS comment
              FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
              LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum LEFT JOIN pg_collation l ON l.oid = a.attcollation
             WHERE ${ours} AND a.attnum > 0 ORDER BY 1, a.attnum`),
    db.sql(
      `SELECT x.conname, x.conrelid::regclass::text AS rel, pg_get_constraintdef(x.oid) AS def FROM pg_constraint x JOIN pg_namespace n ON n.oid = x.connamespace WHERE ${ours} ORDER BY 1, 2`,
    ),
    db.sql("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'afterdelete' ORDER BY 1"),
    db.sql(
      `SELECT pg_get_functiondef(p.oid) AS def, p.proacl::text, obj_description(p.oid, 'pg_proc') AS comment FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE ${ours} ORDER BY 1`,
    ),
    db.sql(
      `SELECT pg_get_triggerdef(t.oid) AS def, obj_description(t.oid, 'pg_trigger') AS comment FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE ${ours} AND NOT t.tgisinternal ORDER BY 1`,
    ),
    db.sql("SELECT viewname, definition FROM pg_views WHERE schemaname = 'afterdelete' ORDER BY 1"),
    db.sql(
      `SELECT t.typname, format_type(t.typbasetype, t.typtypmod) AS base, obj_description(t.oid, 'pg_type') AS comment FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE ${ours} AND t.typtype = 'd' ORDER BY 1`,
    ),
  ]);
  return { relations, columns, constraints, indexes, functions, triggers, views, types };
}

describe('migrate()', () => {
  it('applies what is missing, in order, and nothing the second time', async () => {
    const db = await createDatabase({ empty: true });
    expect(await migrate(db.url)).toEqual(names);
    expect(await migrate(db.url)).toEqual([]);
    expect(await applied(db)).toEqual(names);
  });

  it('by six at once applies each once, and none fails', async () => {
    const db = await createDatabase({ empty: true });
    const results = await Promise.all(Array.from({ length: 6 }, () => migrate(db.url)));
    expect(results.flat()).toEqual(names);
    expect(await applied(db)).toEqual(names);
  });

  it('refuses a migration that was edited, and names both checksums', async () => {
    const db = await createDatabase();
    const [first, ...rest] = bundled as [Migration, ...Migration[]];
    const edited = migration(first.name, `${first.sql}\n-- edited`);
    const error = await migrate(db.url, { migrations: [edited, ...rest] }).catch(e => e);
    expect(error).toBeInstanceOf(SchemaMismatchError);
    for (const part of [first.name, first.checksum, edited.checksum]) expect(error.message).toContain(part);
  });

  it('refuses a database with a migration that it does not know, and changes nothing', async () => {
    const db = await createDatabase();
    await db.sql("INSERT INTO afterdelete.migration (name, checksum) VALUES ('99_future', 'x')");
    const next = migration('10_next', 'CREATE TABLE afterdelete.next (id int)');
    const error = await migrate(db.url, { migrations: [...bundled, next] }).catch(e => e);
    expect(error).toBeInstanceOf(SchemaMismatchError);
    expect(error.message).toContain('99_future');
    expect(await value(db, "SELECT to_regclass('afterdelete.next')")).toBeNull();
  });

  it('works as a role without superuser that may only create in the database', async () => {
    const role = `afterdelete_test_${process.pid}_installer`;
    await atServer(
      `CREATE ROLE ${role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT PASSWORD 'secret'`,
    );
    onTestFinished(() => atServer(`DROP ROLE ${role}`));
    const db = await createDatabase({ empty: true });
    await atServer(`GRANT CREATE ON DATABASE ${db.name} TO ${role}`);
    const url = new URL(db.url);
    url.username = role;
    url.password = 'secret';
    expect(await migrate(url.href)).toEqual(names);
    expect(
      await value(db, "SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'afterdelete'"),
    ).toBe(role);
    // Installed is one thing, and it works another.
    const { kysely, outbox } = openOutbox(url.href);
    await assertSchema(kysely);
    expect(await outbox.maintainHistory()).toEqual({ made: 0, dropped: 0 });
  });

  it('gives way to others while somebody holds a lock it needs, and succeeds when that is released', async () => {
    const db = await createDatabase();
    const holder = await db.connect();
    await holder.query(
      "BEGIN; SELECT * FROM afterdelete.pending_file_cleanup; INSERT INTO afterdelete.pending_file_cleanup (target) VALUES ('s3://b/k')",
    );
    const next = migration(
      '10_next',
      'CREATE TABLE afterdelete.before (id int); ALTER TABLE afterdelete.pending_file_cleanup ADD COLUMN note text',
    );
    let retries = 0;
    let gaveWay: () => void = () => {};
    const twice = new Promise<void>(resolve => {
      gaveWay = resolve;
    });
    const migrating = migrate(db.url, {
      migrations: [...bundled, next],
      lockTimeout: 50,
      onRetry: error => {
        expect(error).toMatchObject({ code: '55P03' });
        retries += 1;
        if (retries === 2) gaveWay();
      },
    });
    await twice;
    // It tries again all the time, and others get their turn in between.
    for (let i = 0; i < 20; i++) await db.sql('SELECT count(*) FROM afterdelete.pending_file_cleanup');
    expect(await value(db, "SELECT to_regclass('afterdelete.before')")).toBeNull();
    await holder.query('COMMIT');
    expect(await migrating).toEqual(['10_next']);
    expect(await db.sql('SELECT target, note FROM afterdelete.pending_file_cleanup')).toEqual([
      { target: 's3://b/k', note: null },
    ]);
  });

  it('gives up after its retries with the lock error, and leaves nothing', async () => {
    const db = await createDatabase();
    const holder = await db.connect();
    await holder.query('BEGIN; SELECT * FROM afterdelete.pending_file_cleanup');
    const next = migration('10_next', 'ALTER TABLE afterdelete.pending_file_cleanup ADD COLUMN note text');
    await expect(
      migrate(db.url, { migrations: [...bundled, next], lockTimeout: 20, retries: 1 }),
    ).rejects.toMatchObject({ code: '55P03' });
    expect(await applied(db)).toEqual(names);
    await holder.query('ROLLBACK');
  });

  it('that fails leaves nothing of any migration, and no schema', async () => {
    const db = await createDatabase({ empty: true });
    const broken = migration('10_broken', 'CREATE TABLE afterdelete.half (id int); SELECT 1/0');
    await expect(migrate(db.url, { migrations: [...bundled, broken] })).rejects.toMatchObject({
      code: '22012',
    });
    expect(await value(db, "SELECT to_regnamespace('afterdelete')")).toBeNull();
    expect(await migrate(db.url)).toEqual(names);
  });

  it('applies a newer migration to a database with rows, and keeps them', async () => {
    const db = await createDatabase();
    await db.sql("SELECT afterdelete.enqueue('s3://b/k')");
    const next = migration('10_next', "COMMENT ON TABLE afterdelete.pending_file_cleanup IS 'it''s new'");
    expect(await migrate(db.url, { migrations: [...bundled, next] })).toEqual(['10_next']);
    expect(await value(db, 'SELECT count(*)::int FROM afterdelete.pending_file_cleanup')).toBe(1);
  });

  it('fails with what the database says when it cannot be reached', async () => {
    await expect(
      migrate(databaseUrl(inject('serverUrl'), 'afterdelete_no_such_database')),
    ).rejects.toMatchObject({ code: '3D000' });
  });
});

describe('migrationScript()', () => {
  it('run as one script makes the same schema, which assertSchema accepts', async () => {
    const [one, two] = [await createDatabase({ empty: true }), await createDatabase({ empty: true })];
    await migrate(one.url);
    await (await two.connect()).query(migrationScript());
    expect(await catalog(two)).toEqual(await catalog(one));
    const { kysely } = openOutbox(two.url);
    await assertSchema(kysely);
    expect(await migrate(two.url)).toEqual([]);
  });

  it('run a second time fails as a whole, and leaves what there is', async () => {
    const db = await createDatabase();
    await db.sql("SELECT afterdelete.enqueue('s3://b/k')");
    const client = await db.connect();
    await expect(client.query(migrationScript())).rejects.toThrow(/already exists/);
    await client.query('ROLLBACK');
    expect(await value(db, 'SELECT count(*)::int FROM afterdelete.pending_file_cleanup')).toBe(1);
  });
});

describe('assertSchema()', () => {
  const complaint = async (db: TestDatabase, migrations?: Migration[]): Promise<Error> => {
    const { kysely } = openOutbox(db.url);
    return await assertSchema(kysely, migrations).then(
      () => new Error('no complaint'),
      (error: Error) => error,
    );
  };

  it('accepts the schema of this version', async () => {
    expect((await complaint(await createDatabase())).message).toBe('no complaint');
  });

  it('says that there is no schema, and what to run', async () => {
    const db = await createDatabase({ empty: true });
    const error = await complaint(db);
    expect(error).toBeInstanceOf(SchemaMismatchError);
    expect(error.message).toMatch(/no afterdelete schema.*afterdelete migrate/);
    expect(await value(db, "SELECT to_regnamespace('afterdelete')")).toBeNull();
  });

  it('says which migrations are missing, and what to run', async () => {
    const error = await complaint(await createDatabase(), [...bundled, migration('10_next', 'SELECT 1')]);
    expect(error).toBeInstanceOf(SchemaMismatchError);
    expect(error.message).toMatch(/older.*10_next.*afterdelete migrate/);
  });

  it('says that the database is newer', async () => {
    const db = await createDatabase();
    await db.sql("INSERT INTO afterdelete.migration (name, checksum) VALUES ('99_future', 'x')");
    expect((await complaint(db)).message).toMatch(/99_future.*newer/);
  });

  it('says that a migration was another one', async () => {
    const db = await createDatabase();
    await db.sql("UPDATE afterdelete.migration SET checksum = 'x' WHERE name = $1", [names[0]]);
    expect((await complaint(db)).message).toContain(names[0]);
  });
});
