/** What stands in the database explains itself, and lets nobody in by default. */
import { describe, expect, it } from 'vitest';
import { fileDatabase } from './rows.ts';

const db = fileDatabase();
const names = async (query: string) => (await db.sql<{ name: string }>(query)).map(row => row.name);

describe('a COMMENT explains', () => {
  it('the schema, every table, view and sequence of ours', async () => {
    expect(
      await names(`
      SELECT c.relname AS name FROM pg_class c
       WHERE c.relnamespace = 'afterdelete'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
         AND obj_description(c.oid, 'pg_class') IS NULL
         -- Sequences of identity columns belong to their column.
         AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'i')
      UNION ALL SELECT 'schema' WHERE obj_description('afterdelete'::regnamespace, 'pg_namespace') IS NULL`),
    ).toEqual([]);
  });

  it('every function, domain and trigger', async () => {
    expect(
      await names(`
      SELECT p.oid::regprocedure::text AS name FROM pg_proc p
       WHERE p.pronamespace = 'afterdelete'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
      UNION ALL
      SELECT t.typname FROM pg_type t
       WHERE t.typnamespace = 'afterdelete'::regnamespace AND t.typtype = 'd' AND obj_description(t.oid, 'pg_type') IS NULL
      UNION ALL
      SELECT g.tgname FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
       WHERE c.relnamespace = 'afterdelete'::regnamespace AND NOT g.tgisinternal AND obj_description(g.oid, 'pg_trigger') IS NULL`),
    ).toEqual([]);
  });

  it('every column of every table and view', async () => {
    expect(
      await names(`
      SELECT c.relname || '.' || a.attname AS name FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
       WHERE c.relnamespace = 'afterdelete'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
         AND a.attnum > 0 AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL
       ORDER BY c.relname, a.attnum`),
    ).toEqual([]);
  });
});

describe('nobody', () => {
  it('may call a function by default', async () => {
    expect(
      await names(`
      SELECT p.oid::regprocedure::text AS name FROM pg_proc p
       WHERE p.pronamespace = 'afterdelete'::regnamespace
         AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0)`),
    ).toEqual([]);
  });

  it('may use the schema or a table by default', async () => {
    expect(
      await names(`
      SELECT c.relname AS name FROM pg_class c, aclexplode(c.relacl) a
       WHERE c.relnamespace = 'afterdelete'::regnamespace AND a.grantee = 0
      UNION ALL
      SELECT n.nspname FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname = 'afterdelete' AND a.grantee = 0`),
    ).toEqual([]);
  });

  it('can slip a function or table of theirs under one that runs with the rights of the owner', async () => {
    expect(
      await names(`
      SELECT p.oid::regprocedure::text AS name FROM pg_proc p
       WHERE p.pronamespace = 'afterdelete'::regnamespace AND p.prosecdef
         AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)`),
    ).toEqual([]);
  });
});

describe('the hot path', () => {
  it('never updates a row of pending, and keeps no index on what a lease would change', async () => {
    expect(
      await names(
        "SELECT indexname AS name FROM pg_indexes WHERE schemaname = 'afterdelete' AND tablename = 'pending_file_cleanup' ORDER BY 1",
      ),
    ).toEqual([
      'pending_file_cleanup_due',
      'pending_file_cleanup_first_due',
      'pending_file_cleanup_pkey',
      'pending_file_cleanup_suspect',
    ]);
    expect(
      await names(
        "SELECT indexname AS name FROM pg_indexes WHERE schemaname = 'afterdelete' AND tablename = 'running_file_cleanup'",
      ),
    ).toEqual(['running_file_cleanup_pkey']);
    expect(
      await names(
        "SELECT p.oid::regprocedure::text AS name FROM pg_proc p WHERE p.pronamespace = 'afterdelete'::regnamespace AND p.prosrc ~* 'update\\s+afterdelete\\.pending'",
      ),
    ).toEqual([]);
  });
});
