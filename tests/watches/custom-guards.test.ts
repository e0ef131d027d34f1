/** Guards of a user's own: a function in the database that can say no. */
import { describe, expect, it } from 'vitest';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { fakeHandler } from '../support/fake-handler.ts';
import { testReconciler, until } from '../support/reconciler.ts';

async function withModels() {
  const db = await createDatabase();
  await db.sql(`CREATE TABLE models (dataset text, active boolean);
    CREATE FUNCTION dataset_in_use(target text) RETURNS boolean LANGUAGE sql STABLE AS
      $$ SELECT EXISTS (SELECT FROM public.models m WHERE m.active AND target = 'fake://store/' || m.dataset) $$`);
  const handler = fakeHandler();
  return { db, handler, reconciler: testReconciler({ databaseUrl: db.url, handlers: [handler] }) };
}

const stuck = (db: TestDatabase) =>
  db.sql('SELECT target, reason, last_error FROM afterdelete.stuck ORDER BY id');
const enqueue = (db: TestDatabase, ...names: string[]) =>
  db.sql("SELECT afterdelete.enqueue('fake://store/' || n) FROM unnest($1::text[]) n", [names]);

describe('a guard', () => {
  it('that says true blocks the row with its name in stuck, and no other; later it goes', async () => {
    const { db, handler, reconciler } = await withModels();
    await db.sql("SELECT afterdelete.guard('data set in use', 'dataset_in_use(text)')");
    await db.sql("INSERT INTO models VALUES ('d1', true), ('d2', false)");
    await enqueue(db, 'd1', 'd2', 'd3');
    await reconciler.runOnce();
    expect([...handler.seen].sort()).toEqual(['fake://store/d2', 'fake://store/d3']);
    expect(await stuck(db)).toEqual([
      {
        target: 'fake://store/d1',
        reason: 'blocked',
        last_error: "the guard 'data set in use' says that it is in use",
      },
    ]);
    await db.sql(
      'UPDATE models SET active = false; SELECT afterdelete.retry(id) FROM afterdelete.pending_file_cleanup',
    );
    await reconciler.runOnce();
    await until(() => handler.seen.length === 3, 'the third');
    expect(await stuck(db)).toEqual([]);
  });

  it('that raises for one target blocks that one, and says so; a NULL blocks, too', async () => {
    const { db, handler, reconciler } = await withModels();
    await db.sql(`CREATE FUNCTION moody(target text) RETURNS boolean LANGUAGE plpgsql AS $$
      BEGIN
        IF target LIKE '%raises' THEN RAISE EXCEPTION 'out of order'; END IF;
        RETURN CASE WHEN target LIKE '%null' THEN NULL ELSE false END;
      END $$`);
    await db.sql("SELECT afterdelete.guard('moody', 'moody(text)')");
    await enqueue(db, 'raises', 'null', 'free');
    await reconciler.runOnce();
    expect(handler.seen).toEqual(['fake://store/free']);
    expect(await stuck(db)).toEqual([
      expect.objectContaining({
        target: 'fake://store/raises',
        reason: 'blocked',
        last_error: expect.stringMatching(
          /^the guard 'moody' cannot be asked: out of order\..*unguard\('moody'\)/,
        ),
      }),
      expect.objectContaining({ target: 'fake://store/null', reason: 'blocked' }),
    ]);
  });

  it('that was dropped blocks everything and says so, until it is removed', async () => {
    const { db, handler, reconciler } = await withModels();
    await db.sql(
      "SELECT afterdelete.guard('in use', 'dataset_in_use(text)'); DROP FUNCTION dataset_in_use(text)",
    );
    await enqueue(db, 'a');
    await reconciler.runOnce();
    expect(handler.seen).toEqual([]);
    expect(await stuck(db)).toEqual([
      expect.objectContaining({
        last_error: expect.stringMatching(/^the guard 'in use' cannot be asked: .*afterdelete\.unguard/),
      }),
    ]);
    await db.sql("SELECT afterdelete.unguard('in use'), afterdelete.unguard('in use')");
    await db.sql('SELECT afterdelete.retry(id) FROM afterdelete.pending_file_cleanup');
    await reconciler.runOnce();
    expect(handler.seen).toEqual(['fake://store/a']);
  });

  it('that is dropped and made anew by a migration goes on', async () => {
    const { db, handler, reconciler } = await withModels();
    await db.sql("SELECT afterdelete.guard('in use', 'dataset_in_use(text)')");
    await db.sql(`DROP FUNCTION dataset_in_use(text);
      CREATE FUNCTION dataset_in_use(target text) RETURNS boolean LANGUAGE sql AS $$ SELECT target LIKE '%/a' $$`);
    await enqueue(db, 'a', 'b');
    await reconciler.runOnce();
    expect(handler.seen).toEqual(['fake://store/b']);
  });

  it("is trusted each time anew: its owner cannot swap it for something that runs as the schema's owner", async () => {
    const { db, handler, reconciler } = await withModels();
    const stranger = `stranger_${db.name}`;
    await db.sql(`CREATE ROLE ${stranger}; CREATE SCHEMA theirs AUTHORIZATION ${stranger};
      CREATE FUNCTION theirs.g(target text) RETURNS boolean LANGUAGE sql RETURN false;
      ALTER FUNCTION theirs.g(text) OWNER TO ${stranger}`);
    try {
      await expect(db.sql("SELECT afterdelete.guard('theirs', 'theirs.g(text)')")).rejects.toThrow(
        /who could run anything as/,
      );
      await db.sql(
        "ALTER FUNCTION theirs.g(text) SECURITY DEFINER; SELECT afterdelete.guard('theirs', 'theirs.g(text)')",
      );
      await db.sql('ALTER FUNCTION theirs.g(text) SECURITY INVOKER');
      await enqueue(db, 'a');
      await reconciler.runOnce();
      expect(handler.seen).toEqual([]);
      expect(await stuck(db)).toEqual([
        expect.objectContaining({
          last_error: expect.stringMatching(
            /^the guard 'theirs' cannot be asked: the function theirs\.g\(text\) belongs to stranger_/,
          ),
        }),
      ]);
    } finally {
      await db.sql(`DROP OWNED BY ${stranger} CASCADE; DROP ROLE ${stranger}`);
    }
  });

  it('declared again under its name is replaced', async () => {
    const { db, handler, reconciler } = await withModels();
    await db.sql('CREATE FUNCTION always(text) RETURNS boolean LANGUAGE sql AS $$ SELECT true $$');
    await db.sql("SELECT afterdelete.guard('g', 'always(text)')");
    await db.sql("SELECT afterdelete.guard('g', 'dataset_in_use(text)')");
    await enqueue(db, 'a');
    await reconciler.runOnce();
    expect(handler.seen).toEqual(['fake://store/a']);
  });

  it.each([
    ["SELECT afterdelete.guard('', 'dataset_in_use(text)')", /expected a name and a function/],
    [
      "SELECT afterdelete.guard('g', 'length(text)')",
      /expected a function \(target text\) that returns boolean/,
    ],
    ["SELECT afterdelete.guard('g', 'now()')", /expected a function \(target text\) that returns boolean/],
    [
      "CREATE FUNCTION lost(text) RETURNS boolean LANGUAGE sql AS $$ SELECT EXISTS (SELECT FROM models) $$; SELECT afterdelete.guard('g', 'lost(text)')",
      /cannot be called: relation "models" does not exist/,
    ],
  ])('is refused when it is declared: %s', async (text, message) => {
    const { db } = await withModels();
    await expect(db.sql(text)).rejects.toThrow(message);
    expect(await db.sql('SELECT FROM afterdelete.custom_guard')).toEqual([]);
  });
});
