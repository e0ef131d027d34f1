/** Who may do what: applications need no right at all, and nobody gains any. */
import { beforeEach, expect, it } from 'vitest';
import { onEveryMajor } from './world.ts';

const DENIED = { code: '42501' };

onEveryMajor('an application', world => {
  beforeEach(async () => {
    await world.sql(
      `CREATE TABLE files (id int PRIMARY KEY, path text, n int DEFAULT 1); INSERT INTO files VALUES (1, 'a'), (2, 'b'), (3, ''); INSERT INTO files VALUES (4, 'd', 0);
       CREATE TABLE parts (id int, path text) PARTITION BY LIST (id); CREATE TABLE parts_d PARTITION OF parts DEFAULT; INSERT INTO parts VALUES (1, 'p')`,
    );
  });

  it('with DELETE on its table, and nothing in our schema, is captured under its own name', async () => {
    await world.watch('files', 'file:///data/{path}');
    await world.watch('files', 'file:///more/{id}', { condition: '10 / n > 0' });
    await world.watch('parts', 'file:///parts/{path}');
    await world.sql('GRANT DELETE ON files, parts TO clerk');
    const clerk = world.as('clerk');
    expect(
      await world.sql(
        `SELECT has_schema_privilege('clerk', 'afterdelete', 'USAGE') AS usage, has_table_privilege('clerk', 'app.files', 'SELECT') AS reads,
                has_table_privilege('clerk', 'afterdelete.pending_file_cleanup', 'INSERT') AS writes`,
      ),
    ).toEqual([{ usage: false, reads: false, writes: false }]);
    await clerk.sql('DELETE FROM files');
    await clerk.sql('DELETE FROM parts');
    expect(await world.written()).toEqual([
      'file:///data/a',
      'file:///data/b',
      'file:///data/d',
      'file:///parts/p',
    ]);
    expect(await world.sql('SELECT DISTINCT actor FROM afterdelete.pending_file_cleanup')).toEqual([
      { actor: 'clerk' },
    ]);
    expect((await world.dead()).map(row => row.actor)).toEqual(['clerk', 'clerk']);
  });

  it('with UPDATE or TRUNCATE on its table, and nothing in our schema, is captured', async () => {
    await world.watch('files', 'file:///data/{path}', { condition: 'id < 3' });
    await world.watch('parts', 'file:///parts/{path}');
    await world.sql(
      'GRANT UPDATE (path), TRUNCATE ON files, parts TO clerk; GRANT TRUNCATE ON parts_d TO clerk',
    );
    const clerk = world.as('clerk');
    await clerk.sql("UPDATE files SET path = 'new'; UPDATE parts SET path = 'new'");
    expect(await world.taken()).toEqual(['file:///data/a', 'file:///data/b', 'file:///parts/p']);
    await clerk.sql('TRUNCATE files, parts');
    expect(await world.written()).toEqual(['file:///data/new', 'file:///data/new', 'file:///parts/new']);
  });

  it('that sees only some rows by row-level security has those captured that it deletes', async () => {
    await world.sql(
      `GRANT SELECT, DELETE ON files TO clerk; ALTER TABLE files ENABLE ROW LEVEL SECURITY; CREATE POLICY low ON files TO clerk USING (id < 3)`,
    );
    await world.watch('files', 'file:///data/{path}');
    await world.as('clerk').sql('DELETE FROM files');
    expect(await world.written()).toEqual(['file:///data/a', 'file:///data/b']);
  });

  it('that acts as another role by SET ROLE is named by the role that it logged in with', async () => {
    await world.watch('files', 'file:///data/{path}');
    const session = await world.connect('postgres');
    await session.query('SET ROLE keeper; DELETE FROM files WHERE id = 1');
    expect(await world.sql('SELECT actor FROM afterdelete.pending_file_cleanup')).toEqual([
      { actor: 'postgres' },
    ]);
  });

  it('that calls a function of somebody else, who may delete, is captured', async () => {
    await world.watch('files', 'file:///data/{path}');
    await world.sql(
      "CREATE FUNCTION remove(int) RETURNS void LANGUAGE sql SECURITY DEFINER AS 'DELETE FROM app.files WHERE id = $1'",
    );
    await world.as('clerk').sql('SELECT remove(1)');
    expect(await world.sql('SELECT target::text, actor FROM afterdelete.pending_file_cleanup')).toEqual([
      { target: 'file:///data/a', actor: 'clerk' },
    ]);
  });
});

onEveryMajor('a stranger', world => {
  it('can execute no function of the schema, those of watches included, and read or write none of its tables', async () => {
    await world.sql('CREATE TABLE files (id int); CREATE TABLE parts (id int) PARTITION BY LIST (id)');
    await world.watch('files', 'file:///data/{id}');
    await world.watch('parts', 'file:///data/{id}');
    await world.watch('files', 'file:///data/{id}', { delay: '1 day' });
    expect(
      await world.sql(
        `SELECT p.oid::regprocedure::text AS function FROM pg_proc p
          WHERE p.pronamespace = 'afterdelete'::regnamespace AND (has_function_privilege('stranger', p.oid, 'EXECUTE')
             OR EXISTS (SELECT FROM aclexplode(p.proacl) a WHERE a.grantee NOT IN (p.proowner)))`,
      ),
    ).toEqual([]);
    expect(
      await world.sql(
        `SELECT c.oid::regclass::text FROM pg_class c WHERE c.relnamespace = 'afterdelete'::regnamespace AND c.relkind IN ('r', 'p', 'v')
            AND has_table_privilege('stranger', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER, REFERENCES')`,
      ),
    ).toEqual([]);
    const stranger = world.as('stranger');
    for (const call of [
      "watch('app.files', 'file:///{id}')",
      "unwatch('app.files')",
      "guard('g', 'pg_catalog.textlen(text)')",
      "unguard('g')",
      "holders('file:///a')",
      "is_held('file:///a')",
      "verdicts('{}')",
      'watch_problems()',
    ]) {
      await expect(stranger.sql(`SELECT afterdelete.${call}`)).rejects.toMatchObject(DENIED);
    }
  });

  it('who has USAGE on the schema can still call none of it', async () => {
    await world.sql('CREATE TABLE files (id int); GRANT USAGE ON SCHEMA afterdelete TO stranger');
    const stranger = world.as('stranger');
    for (const call of [
      "watch('app.files', 'file:///{id}')",
      "unwatch('app.files')",
      "guard('g', 'pg_catalog.textlen(text)')",
      "unguard('g')",
      'drop_capture(1)',
      "capture_failed(1, 'DELETE', 1, 'x', 'y')",
      'capture_truncate(1, 1)',
    ]) {
      await expect(stranger.sql(`SELECT afterdelete.${call}`)).rejects.toMatchObject(DENIED);
    }
    await world.sql('REVOKE USAGE ON SCHEMA afterdelete FROM stranger');
  });

  it('cannot attach the function of a watch to a table of its own', async () => {
    await world.sql(
      'CREATE TABLE files (id int, path text); GRANT CREATE ON SCHEMA app TO stranger; GRANT USAGE ON SCHEMA afterdelete TO stranger',
    );
    const watch = await world.watch('files', 'file:///data/{path}');
    const stranger = world.as('stranger');
    await stranger.sql('CREATE TABLE app.mine (id int, path text)');
    await expect(
      stranger.sql(
        `CREATE TRIGGER inject AFTER DELETE ON app.mine REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION afterdelete.capture_${watch}()`,
      ),
    ).rejects.toMatchObject(DENIED);
    await expect(stranger.sql(`SELECT afterdelete.capture_${watch}()`)).rejects.toThrow();
    await world.sql('REVOKE USAGE ON SCHEMA afterdelete FROM stranger');
  });

  it('who does attach it to a table of its own makes nothing written', async () => {
    await world.sql(
      'CREATE TABLE files (id int, path text); GRANT CREATE ON SCHEMA app TO stranger; GRANT USAGE ON SCHEMA afterdelete TO stranger',
    );
    const watch = await world.watch('files', 'file:///data/{path}');
    await world.sql(`GRANT EXECUTE ON FUNCTION afterdelete.capture_${watch}() TO stranger`);
    await world.as('stranger').sql(
      `CREATE TABLE app.mine (id int, path text); INSERT INTO app.mine VALUES (1, 'injected');
       CREATE TRIGGER a AFTER DELETE ON app.mine REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION afterdelete.capture_${watch}();
       CREATE TRIGGER b AFTER UPDATE ON app.mine REFERENCING OLD TABLE AS gone NEW TABLE AS stay FOR EACH STATEMENT EXECUTE FUNCTION afterdelete.capture_${watch}();
       CREATE TRIGGER c BEFORE TRUNCATE ON app.mine FOR EACH STATEMENT EXECUTE FUNCTION afterdelete.capture_${watch}();
       UPDATE app.mine SET path = 'other'; DELETE FROM app.mine; INSERT INTO app.mine VALUES (1, 'injected'); TRUNCATE app.mine`,
    );
    expect(await world.written()).toEqual([]);
    expect(await world.dead()).toEqual([]);
    await world.sql('REVOKE USAGE ON SCHEMA afterdelete FROM stranger');
  });
});

onEveryMajor('the owner of a partitioned table', world => {
  let watch: string;
  beforeEach(async () => {
    await world.sql('GRANT CREATE ON SCHEMA app TO maker');
    await world.as('maker').sql(
      `CREATE TABLE app.parts (id int, path text) PARTITION BY LIST (id); CREATE TABLE app.parts_d PARTITION OF app.parts DEFAULT;
       GRANT SELECT, TRIGGER ON app.parts, app.parts_d TO keeper`,
    );
    watch = await world.watch('parts', 'file:///data/{path}');
  });

  it('cannot make its watch write for another table', async () => {
    await world.sql('GRANT USAGE ON SCHEMA afterdelete TO maker');
    await world.as('maker').sql(
      `CREATE TABLE app.mine (id int, path text); INSERT INTO app.mine VALUES (1, 'injected');
       CREATE TRIGGER a AFTER DELETE ON app.mine FOR EACH ROW EXECUTE FUNCTION afterdelete.capture_${watch}();
       CREATE TRIGGER b AFTER UPDATE ON app.mine FOR EACH ROW EXECUTE FUNCTION afterdelete.capture_${watch}();
       CREATE TRIGGER c BEFORE TRUNCATE ON app.mine FOR EACH STATEMENT EXECUTE FUNCTION afterdelete.capture_${watch}();
       UPDATE app.mine SET path = 'other'; DELETE FROM app.mine; INSERT INTO app.mine VALUES (1, 'injected'); TRUNCATE app.mine;
       CREATE TABLE app.tree (id int, path text) PARTITION BY LIST (id); CREATE TABLE app.tree_d PARTITION OF app.tree DEFAULT;
       CREATE TRIGGER a AFTER DELETE ON app.tree FOR EACH ROW EXECUTE FUNCTION afterdelete.capture_${watch}();
       INSERT INTO app.tree VALUES (1, 'injected'); DELETE FROM app.tree`,
    );
    expect(await world.written()).toEqual([]);
    expect(await world.dead()).toEqual([]);
    await world.sql('REVOKE USAGE ON SCHEMA afterdelete FROM maker');
  });

  it('harms only itself with the function on its own table, where there is nothing deleted', async () => {
    await world.sql('GRANT USAGE ON SCHEMA afterdelete TO maker');
    const maker = world.as('maker');
    for (const trigger of [
      'AFTER INSERT ON app.parts FOR EACH ROW',
      'BEFORE INSERT ON app.parts FOR EACH ROW',
      'AFTER DELETE ON app.parts FOR EACH STATEMENT',
      'AFTER INSERT ON app.parts FOR EACH STATEMENT',
    ]) {
      await maker.sql(`CREATE TRIGGER odd ${trigger} EXECUTE FUNCTION afterdelete.capture_${watch}()`);
      await maker.sql("INSERT INTO app.parts VALUES (1, 'a')").catch(() => {});
      await maker.sql('DELETE FROM app.parts WHERE false').catch(() => {});
      await maker.sql('DROP TRIGGER odd ON app.parts');
      expect(await world.taken()).toEqual([]);
    }
    await world.sql('REVOKE USAGE ON SCHEMA afterdelete FROM maker');
  });

  it('who is a new one can make partitions once the watch is declared anew, as check says', async () => {
    await world
      .as('postgres')
      .sql(
        'ALTER TABLE app.parts OWNER TO clerk; GRANT CREATE ON SCHEMA app TO clerk; GRANT SELECT, TRIGGER ON app.parts TO keeper',
      );
    await expect(
      world.as('clerk').sql('CREATE TABLE app.parts_7 PARTITION OF app.parts FOR VALUES IN (7)'),
    ).rejects.toMatchObject(DENIED);
    expect(await world.sql('SELECT problem FROM afterdelete.watch_problems() WHERE broken')).toEqual([
      { problem: 'clerk, who owns app.parts, can make no partitions of it' },
    ]);
    await world.watch('parts', 'file:///data/{path}');
    await world
      .as('clerk')
      .sql(
        "CREATE TABLE app.parts_7 PARTITION OF app.parts FOR VALUES IN (7); INSERT INTO app.parts VALUES (7, 'x'); DELETE FROM app.parts",
      );
    expect(await world.written()).toEqual(['file:///data/x']);
  });
});
