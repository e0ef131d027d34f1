-- Declaring a watch: what can be wrong with it, and the triggers it needs.

CREATE FUNCTION afterdelete.check_relation(relation regclass) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  r record;
BEGIN
  SELECT c.relkind, c.relpersistence, c.relnamespace, n.nspname INTO r
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation;
  IF NOT FOUND THEN
    PERFORM afterdelete.watch_error('there is no table with the number ' || coalesce(relation::oid::text, 'NULL'));
  ELSIF r.relkind NOT IN ('r', 'p') THEN
    PERFORM afterdelete.watch_error(format('%s is no table', relation), 'Views, materialized views and foreign tables cannot be watched: watch the tables that hold the rows.');
  ELSIF r.relpersistence = 't' THEN
    PERFORM afterdelete.watch_error(format('%s is temporary', relation), 'The daemon, in a session of its own, could not ask it who holds.');
  ELSIF r.nspname IN ('afterdelete', 'pg_catalog') THEN
    PERFORM afterdelete.watch_error(format('%s belongs to %s', relation, CASE r.nspname WHEN 'afterdelete' THEN 'afterdelete itself' ELSE 'PostgreSQL' END), 'Watch tables of your own.');
  END IF;
  SELECT t.oid::regclass AS member, concat_ws(', ', CASE WHEN NOT has_table_privilege(t.oid, 'SELECT') THEN 'SELECT' END, CASE WHEN NOT has_table_privilege(t.oid, 'TRIGGER') THEN 'TRIGGER' END) AS missing,
         has_schema_privilege(c.relnamespace, 'USAGE') AS usable, c.relnamespace::regnamespace AS space
    INTO r
    FROM afterdelete.relation_tree(relation) AS t (oid) JOIN pg_class c ON c.oid = t.oid
   ORDER BY has_table_privilege(t.oid, 'SELECT') AND has_table_privilege(t.oid, 'TRIGGER') AND has_schema_privilege(c.relnamespace, 'USAGE') LIMIT 1;
  IF r.missing <> '' THEN
    PERFORM afterdelete.watch_error(format('%I, who owns the schema afterdelete, has no %s on %s', current_user, r.missing, r.member),
      format('GRANT %s ON %s TO %I', r.missing, r.member, current_user));
  ELSIF NOT r.usable THEN
    PERFORM afterdelete.watch_error(format('%I, who owns the schema afterdelete, has no USAGE on the schema %s', current_user, r.space),
      format('GRANT USAGE ON SCHEMA %s TO %I', r.space, current_user));
  END IF;
  SELECT t.oid::regclass AS member INTO r FROM afterdelete.relation_tree(relation) AS t (oid) WHERE row_security_active(t.oid) LIMIT 1;
  IF FOUND THEN
    PERFORM afterdelete.watch_error(format('row-level security hides rows of %s from %I, who owns the schema afterdelete', r.member, current_user),
      format('The guard must see every row: ALTER ROLE %I BYPASSRLS, or let %I own the table.', current_user, current_user));
  END IF;
END
$$;
COMMENT ON FUNCTION afterdelete.check_relation(regclass) IS 'Raises why a table cannot be watched.';

CREATE FUNCTION afterdelete.check_template(relation regclass, template text, prune_parents integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  p record;
  sample text := '';
  rule text;
BEGIN
  IF template IS NULL THEN PERFORM afterdelete.watch_error('the template is NULL'); END IF;
  FOR p IN SELECT t.*, a.attnum, a.atttypid, a.attgenerated, afterdelete.placeholder_kind(a.atttypid) AS kind
             FROM afterdelete.template_parts(template) t
             LEFT JOIN pg_attribute a ON a.attrelid = relation AND a.attname = t.name AND a.attnum > 0 AND NOT a.attisdropped ORDER BY t.n LOOP
    sample := sample || p.literal || CASE WHEN p.name IS NULL THEN '' WHEN p.rooted THEN '/x' WHEN p.kind IN ('text', 'enum') THEN 'x' ELSE repeat('0', 36) END;
    CONTINUE WHEN p.name IS NULL;
    IF p.attnum IS NULL THEN
      PERFORM afterdelete.watch_error(format('%s has no column %L, which the template %L names', relation, p.name, template),
        'Its columns: ' || (SELECT string_agg(a.attname, ', ' ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped));
    ELSIF p.kind IS NULL THEN
      PERFORM afterdelete.watch_error(format('the column %I of %s is of type %s, whose text form is not the same in every session or for every equal value', p.name, relation, format_type(p.atttypid, NULL)),
        'A placeholder is text, varchar, smallint, integer, bigint, numeric, uuid, boolean or an enum.');
    ELSIF p.attgenerated = 'v' THEN
      PERFORM afterdelete.watch_error(format('the column %I of %s is a virtual generated column, which no trigger sees', p.name, relation), 'Declare it GENERATED ALWAYS AS (...) STORED.');
    END IF;
  END LOOP;
  IF NOT EXISTS (SELECT FROM afterdelete.template_parts(template) t WHERE t.name IS NOT NULL) THEN
    PERFORM afterdelete.watch_error(format('the template %L names no column: every row would hold the same', template), 'A placeholder is {column}, or {+column} where the value may contain slashes.');
  ELSIF template !~ '^[a-z][a-z0-9+.-]*://' THEN
    PERFORM afterdelete.watch_error(format('the template %L begins with no scheme', template), 'It begins as its targets do, with file:// or s3:// and so on, written out.');
  END IF;
  rule := afterdelete.broken_rule(sample);
  IF rule IS NOT NULL THEN
    PERFORM afterdelete.watch_error(format('the template %L renders to no target, e.g. %L: it breaks the rule %s', template, sample, rule),
      'A template renders to targets, e.g. file:///data/trainings/{id}/ or s3://bucket/{+key}.');
  END IF;
  IF prune_parents IS NULL OR prune_parents NOT BETWEEN 0 AND 32 OR (prune_parents > 0 AND template NOT LIKE 'file://%') THEN
    PERFORM afterdelete.watch_error(format('prune_parents is %s', coalesce(prune_parents::text, 'NULL')), 'It is 0 to 32 levels for file: templates, 0 for others.');
  END IF;
END
$$;
COMMENT ON FUNCTION afterdelete.check_template(regclass, text, integer) IS 'Raises what is wrong with a template.';

-- Triggers with a transition table fire once a statement, for the table that the statement names. Partitions made later would
-- have none, and a table below another one is seldom the one that is named: those have row triggers, which PostgreSQL gives to
-- every new partition by itself.
CREATE FUNCTION afterdelete.needs_row_triggers(relation oid) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT (SELECT c.relkind = 'p' FROM pg_catalog.pg_class c WHERE c.oid = relation)
      OR EXISTS (SELECT FROM afterdelete.relation_tree(relation) AS t (oid) JOIN pg_catalog.pg_inherits i ON i.inhrelid = t.oid
                  WHERE i.inhparent NOT IN (SELECT afterdelete.relation_tree(relation)))
$$;
COMMENT ON FUNCTION afterdelete.needs_row_triggers(oid) IS 'Whether statements reach a table''s rows without naming it or a table below it.';

-- The triggers that a watch needs and does not have. Partitions have row triggers by way of the table they belong to.
CREATE FUNCTION afterdelete.missing_triggers(w afterdelete.watched, OUT relation regclass, OUT event text, OUT declaration text) RETURNS SETOF record
LANGUAGE sql STABLE AS $$
  SELECT t.oid::regclass, e.event,
         format('CREATE TRIGGER %I %s EXECUTE FUNCTION afterdelete.%I()', n.name,
                CASE e.event
                  WHEN 'truncate' THEN format('BEFORE TRUNCATE ON %s FOR EACH STATEMENT', t.oid::regclass)
                  WHEN 'delete' THEN format('AFTER DELETE ON %s %s', t.oid::regclass, CASE WHEN w.each_row THEN 'FOR EACH ROW' ELSE 'REFERENCING OLD TABLE AS gone FOR EACH STATEMENT' END)
                  ELSE format('AFTER UPDATE ON %s %s', t.oid::regclass, CASE WHEN w.each_row THEN 'FOR EACH ROW' ELSE 'REFERENCING OLD TABLE AS gone NEW TABLE AS stay FOR EACH STATEMENT' END)
                END, 'capture_' || w.id)
    FROM afterdelete.relation_tree(w.relation) AS t (oid)
    JOIN pg_catalog.pg_class c ON c.oid = t.oid
   CROSS JOIN unnest(ARRAY['delete', 'update', 'truncate']) AS e (event)
   CROSS JOIN LATERAL (SELECT format('afterdelete_%s_%s', w.id, e.event)) AS n (name)
   WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g WHERE g.tgrelid = t.oid AND g.tgname = n.name)
     AND (e.event = 'truncate' OR t.oid = w.relation OR NOT c.relispartition)
     -- Before PostgreSQL 16 a foreign table has no such trigger.
     AND (e.event <> 'truncate' OR c.relkind <> 'f' OR current_setting('server_version_num')::integer >= 160000)
$$;
COMMENT ON FUNCTION afterdelete.missing_triggers(afterdelete.watched) IS 'The triggers that a watch needs and does not have, with the statements that make them.';

CREATE FUNCTION afterdelete.watch(relation regclass, template text, condition text DEFAULT 'true', delay interval DEFAULT '0', prune_parents integer DEFAULT 0)
RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on SET quote_all_identifiers = off AS $$
#variable_conflict use_variable
DECLARE
  w afterdelete.watched;
  before afterdelete.watched;
  condition_columns text[];
  careful boolean := false;
  missing record;
  other record;
BEGIN
  -- One at a time, and none beside an unwatch.
  PERFORM pg_advisory_xact_lock(1634104420, hashtext('afterdelete.watch'));
  PERFORM afterdelete.check_relation(relation);
  PERFORM afterdelete.check_template(relation, template, prune_parents);
  IF delay IS NULL OR delay NOT BETWEEN interval '0' AND interval '100 years' THEN
    PERFORM afterdelete.watch_error(format('delay is %s', coalesce(delay::text, 'NULL')), 'It is an interval from 0 to 100 years.');
  END IF;
  -- A table that was dropped and made anew under its name is declared anew.
  FOR other IN
    DELETE FROM afterdelete.watched o
     WHERE o.template = watch.template AND o.relation_name = relation::text AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = o.relation) RETURNING o.id
  LOOP
    PERFORM afterdelete.drop_capture(other.id);
  END LOOP;
  SELECT * INTO before FROM afterdelete.watched o WHERE o.relation = watch.relation AND o.template = watch.template;

  w.id := coalesce(before.id, nextval(pg_get_serial_sequence('afterdelete.watched', 'id')));
  w.relation := relation;
  w.relation_name := relation::text;
  w.template := template;
  w.condition := 'true';
  w.delay := delay;
  w.prune_parents := prune_parents;
  w.each_row := afterdelete.needs_row_triggers(relation);
  w.declared_at := clock_timestamp();
  w.declared_by := session_user;
  IF condition IS NULL OR btrim(condition) = '' THEN
    PERFORM afterdelete.watch_error('the condition is empty', 'Leave it out, if every row holds.');
  ELSIF lower(btrim(condition)) <> 'true' THEN
    SELECT r.canonical, r.columns, r.careful INTO w.condition, condition_columns, careful FROM afterdelete.read_condition(relation, condition) r;
  END IF;
  SELECT array_agg(a.attname ORDER BY a.attnum), array_agg(format_type(a.atttypid, NULL) ORDER BY a.attnum) INTO w.columns, w.types
    FROM pg_attribute a
   WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
     AND (a.attname = ANY (condition_columns) OR a.attname IN (SELECT p.name FROM afterdelete.template_parts(template) p));
  w := afterdelete.prepare_guard(w);
  w.whole_query := afterdelete.capture_insert(w, afterdelete.held_by(w, E'ONLY \x01relation\x02'), 'TRUNCATE on ' || w.relation_name);

  IF before.each_row <> w.each_row THEN PERFORM afterdelete.drop_capture(before.id); END IF;
  DELETE FROM afterdelete.watched o WHERE o.id = w.id;
  INSERT INTO afterdelete.watched OVERRIDING SYSTEM VALUE VALUES (w.*);
  EXECUTE format('CREATE OR REPLACE FUNCTION afterdelete.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %L',
                 'capture_' || w.id, afterdelete.capture_code(w, careful));
  EXECUTE format('REVOKE EXECUTE ON FUNCTION afterdelete.%I() FROM PUBLIC', 'capture_' || w.id);
  EXECUTE format('COMMENT ON FUNCTION afterdelete.%I() IS %L', 'capture_' || w.id, format('Writes cleanups for what rows of %s held.', relation));
  PERFORM afterdelete.make_holds_function(w);
  -- Whoever makes a partition needs it, or could make none. It writes nothing for tables that do not belong to the watch.
  FOR other IN SELECT DISTINCT c.relowner::regrole AS owner FROM afterdelete.relation_tree(relation) AS t (oid) JOIN pg_class c ON c.oid = t.oid WHERE c.relkind = 'p' LOOP
    EXECUTE format('GRANT EXECUTE ON FUNCTION afterdelete.%I() TO %s', 'capture_' || w.id, other.owner);
  END LOOP;
  FOR missing IN SELECT * FROM afterdelete.missing_triggers(w) LOOP
    EXECUTE missing.declaration;
  END LOOP;
  -- Both must be able to run, or the declaration is no good. Only planned: nobody can write to the table meanwhile.
  BEGIN
    EXECUTE 'EXPLAIN ' || afterdelete.fill_query(w, w.exact_query, false) USING '{}'::integer[], '{}'::text[];
    IF w.below_query IS NOT NULL THEN EXECUTE 'EXPLAIN ' || afterdelete.fill_query(w, w.below_query, false) USING '{}'::integer[], '{}'::text[]; END IF;
    EXECUTE 'EXPLAIN ' || afterdelete.held_by(w, 'ONLY ' || relation);
  EXCEPTION WHEN OTHERS THEN
    IF afterdelete.is_applications_error(SQLSTATE) THEN RAISE; END IF;
    PERFORM afterdelete.watch_error(format('%s cannot be asked about %L: %s', relation, template, SQLERRM));
  END;
  RETURN w.id;
END
$$;
COMMENT ON FUNCTION afterdelete.watch(regclass, text, text, interval, integer) IS
  'Declares that a row of a table holds what template renders to, for as long as it exists and condition is true: when a hold ends, a cleanup is '
  'written in the same transaction (due after delay), and what is held is never deleted. {column} stands for a value without slashes, {+column} for one '
  'that may have some. Declared again, it changes condition, delay and prune_parents, and takes in new partitions. For the schema''s owner, who needs '
  'SELECT and TRIGGER on the table. Returns the number of the watch.';

-- A trigger takes a lock that waits for every writer of its table, and every later writer waits for it: so only for a moment.
CREATE FUNCTION afterdelete.extend_watches() RETURNS text LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
  w afterdelete.watched;
  missing record;
  failures text;
BEGIN
  IF NOT pg_try_advisory_xact_lock(1634104420, hashtext('afterdelete.watch')) THEN RETURN NULL; END IF;
  FOR w IN SELECT o.* FROM afterdelete.watched o JOIN pg_class c ON c.oid = o.relation WHERE o.each_row = afterdelete.needs_row_triggers(o.relation) ORDER BY o.id LOOP
    FOR missing IN SELECT * FROM afterdelete.missing_triggers(w) LOOP
      BEGIN
        EXECUTE missing.declaration;
      EXCEPTION WHEN OTHERS THEN
        failures := concat_ws('; ', failures, format('the trigger for %s on %s: %s', upper(missing.event), missing.relation, SQLERRM));
      END;
    END LOOP;
  END LOOP;
  RETURN failures;
END
$$;
COMMENT ON FUNCTION afterdelete.extend_watches() IS
  'Gives partitions and inheriting tables that were made later the triggers of their watches; daemons call it. Returns what failed, which is tried again.';

CREATE FUNCTION afterdelete.drop_capture(watch bigint) RETURNS void LANGUAGE plpgsql SET client_min_messages = warning AS $$
BEGIN
  -- With its triggers, which only the owner of each table could drop one by one.
  EXECUTE format('DROP FUNCTION IF EXISTS afterdelete.%I() CASCADE', 'capture_' || watch);
  EXECUTE format('DROP FUNCTION IF EXISTS afterdelete.%I(integer[], text[])', 'holds_' || watch);
END
$$;
COMMENT ON FUNCTION afterdelete.drop_capture(bigint) IS 'Drops the functions of a watch, with its triggers.';

CREATE FUNCTION afterdelete.unwatch(relation regclass, template text DEFAULT NULL) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
  removed bigint;
  count integer := 0;
BEGIN
  PERFORM pg_advisory_xact_lock(1634104420, hashtext('afterdelete.watch'));
  FOR removed IN DELETE FROM afterdelete.watched o WHERE o.relation = unwatch.relation AND o.template = coalesce(unwatch.template, o.template) RETURNING o.id LOOP
    PERFORM afterdelete.drop_capture(removed);
    count := count + 1;
  END LOOP;
  RETURN count;
END
$$;
COMMENT ON FUNCTION afterdelete.unwatch(regclass, text) IS
  'Removes one watch of a table, or all: its rows hold nothing any more, and nothing is written when they go. Returns how many there were. For the schema''s owner.';
