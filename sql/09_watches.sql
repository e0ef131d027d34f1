-- Watches: which rows hold which targets, declared once. This file holds the declarations and how a template is read;
-- 10_capture.sql writes the triggers that follow from them, 11_guard.sql asks the rows that hold.

CREATE TABLE afterdelete.watched (
  id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  relation      regclass NOT NULL,
  relation_name text NOT NULL,
  template      text COLLATE "C" NOT NULL,
  condition     text NOT NULL,
  delay         interval NOT NULL,
  prune_parents smallint NOT NULL CONSTRAINT prune_parents_is_0_to_32 CHECK (prune_parents BETWEEN 0 AND 32),
  columns       text[] NOT NULL,
  types         text[] NOT NULL,
  each_row      boolean NOT NULL,
  prefix        text COLLATE "C" NOT NULL,
  exact_pattern text NOT NULL,
  above_pattern text NOT NULL,
  exact_query   text NOT NULL,
  below_query   text,
  scan_query    text NOT NULL,
  prefix_column text,
  readable      boolean NOT NULL,
  whole_query   text NOT NULL,
  declared_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  declared_by   text NOT NULL DEFAULT session_user,
  UNIQUE (relation, template)
);

COMMENT ON TABLE afterdelete.watched IS 'Watches: rows of relation hold what template renders to, for as long as they exist and condition is true. Written by afterdelete.watch() and afterdelete.unwatch(); not for editing.';
COMMENT ON COLUMN afterdelete.watched.id IS 'Number of the watch; its trigger function is afterdelete.capture_<id>().';
COMMENT ON COLUMN afterdelete.watched.relation IS 'The watched table.';
COMMENT ON COLUMN afterdelete.watched.relation_name IS 'Its name when it was declared, for messages after it is gone.';
COMMENT ON COLUMN afterdelete.watched.template IS 'A target with placeholders: {column} for a value without a slash, {+column} for one that may have some.';
COMMENT ON COLUMN afterdelete.watched.condition IS 'When a row holds, as PostgreSQL reads it: every name in full.';
COMMENT ON COLUMN afterdelete.watched.delay IS 'How long after the end of a hold the target is deleted.';
COMMENT ON COLUMN afterdelete.watched.prune_parents IS 'How many levels of parent directories to remove if they are empty afterwards; file: only.';
COMMENT ON COLUMN afterdelete.watched.columns IS 'Columns that template and condition name.';
COMMENT ON COLUMN afterdelete.watched.types IS 'Their types when it was declared.';
COMMENT ON COLUMN afterdelete.watched.each_row IS 'Whether its triggers fire for each row (partitioned tables and partitions) or once a statement.';
COMMENT ON COLUMN afterdelete.watched.prefix IS 'With what all that it could render begins; without host for file:.';
COMMENT ON COLUMN afterdelete.watched.exact_pattern IS 'Regular expression of all that it could render; for file: without host and trailing slash.';
COMMENT ON COLUMN afterdelete.watched.above_pattern IS 'Regular expression of all above what it could render, without trailing slash.';
COMMENT ON COLUMN afterdelete.watched.exact_query IS 'How the guard asks which rows hold exactly some targets.';
COMMENT ON COLUMN afterdelete.watched.below_query IS 'How the guard asks which rows hold something below some trees, by index.';
COMMENT ON COLUMN afterdelete.watched.scan_query IS 'The same where no index helps: one pass over the table for a whole batch.';
COMMENT ON COLUMN afterdelete.watched.prefix_column IS 'The column of {+column}, whose beginnings the guard looks for; it wants an index that can.';
COMMENT ON COLUMN afterdelete.watched.readable IS 'Whether column values can be read back from what it renders; otherwise rows are found by what they render.';
COMMENT ON COLUMN afterdelete.watched.whole_query IS 'How what all rows of a table hold is captured, before TRUNCATE.';
COMMENT ON COLUMN afterdelete.watched.declared_at IS 'When it was declared, or declared anew.';
COMMENT ON COLUMN afterdelete.watched.declared_by IS 'Who declared it.';

-- The rules of a target as expressions: the constraints of the domain, taken from the domain itself, so that there is one
-- truth. A trigger must know before it writes, because an error in it would be the application's.
CREATE FUNCTION afterdelete.target_rules(subject text, OUT name text, OUT expression text) RETURNS SETOF record LANGUAGE sql STABLE AS $$
  SELECT c.conname::text, replace(substring(pg_get_constraintdef(c.oid) FROM E'^CHECK (\\(.*\\))$'), 'VALUE', format('(%s COLLATE "C")', subject))
    FROM pg_catalog.pg_constraint c WHERE c.contypid = 'afterdelete.target'::regtype ORDER BY c.conname
$$;
COMMENT ON FUNCTION afterdelete.target_rules(text) IS 'The rules of afterdelete.target as expressions over subject.';

DO $do$
BEGIN
  EXECUTE (SELECT 'CREATE FUNCTION afterdelete.broken_rule(target text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN CASE '
                  || string_agg(format('WHEN NOT %s THEN %L', r.expression, r.name), ' ' ORDER BY r.name) || ' END'
             FROM afterdelete.target_rules('target') r);
END
$do$;
COMMENT ON FUNCTION afterdelete.broken_rule(text) IS 'The first rule of afterdelete.target that a text breaks; NULL: it is a target.';

-- For file: the host and a trailing slash make no difference to the guard.
CREATE FUNCTION afterdelete.guarded_form(target text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
  CASE WHEN left(target, 7) = 'file://'
       THEN 'file://' || regexp_replace(substr(target, 7 + strpos(substr(target, 8), '/')), '/$', '')
       ELSE target END;
COMMENT ON FUNCTION afterdelete.guarded_form(text) IS 'A target as the guard compares it: for file: without host and trailing slash.';

CREATE FUNCTION afterdelete.escape_pattern(literal text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
  regexp_replace(literal, '([][\\.^$*+?(){}|-])', '\\\1', 'g');
COMMENT ON FUNCTION afterdelete.escape_pattern(text) IS 'A regular expression that matches exactly this text.';

CREATE FUNCTION afterdelete.watch_error(problem text, expected text DEFAULT NULL) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'nothing is watched: %', problem USING ERRCODE = 'invalid_parameter_value', HINT = coalesce(expected, '');
END
$$;
COMMENT ON FUNCTION afterdelete.watch_error(text, text) IS 'Raises what is wrong with a declaration, and what was expected.';

-- A template comes apart into parts, each a literal and the placeholder after it; the last has no placeholder.
CREATE FUNCTION afterdelete.template_parts(template text, OUT n integer, OUT literal text, OUT name text, OUT slashes boolean, OUT rooted boolean)
RETURNS SETOF record LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  rest text := template;
  before text := '';
  found text[];
BEGIN
  n := 0;
  LOOP
    n := n + 1;
    found := regexp_match(rest, E'^([^{}]*)\\{(\\+?)([^{}]*)\\}');
    EXIT WHEN found IS NULL;
    literal := found[1];
    slashes := found[2] = '+';
    name := found[3];
    before := before || literal;
    rooted := slashes AND before LIKE 'file://%' AND strpos(substr(before, 8), '/') = 0;
    rest := substr(rest, length(literal) + length(found[2]) + length(name) + 3);
    RETURN NEXT;
  END LOOP;
  IF rest ~ '[{}]' THEN
    PERFORM afterdelete.watch_error(format('the template %L has a brace that belongs to no placeholder', template),
      'A placeholder is {column}, or {+column} where the value may contain slashes.');
  END IF;
  literal := rest;
  name := NULL;
  slashes := NULL;
  rooted := NULL;
  RETURN NEXT;
END
$$;
COMMENT ON FUNCTION afterdelete.template_parts(text) IS
  'The parts of a template: a literal and the placeholder after it; the last part has none. rooted: a {+column} that stands where a '
  'file''s path begins, so that its values must begin with a slash.';

-- The kinds of columns whose text form depends on no setting.
CREATE FUNCTION afterdelete.placeholder_kind(type oid) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
  base oid := type;
  form "char";
BEGIN
  LOOP
    CASE
      WHEN base IN ('text'::regtype, 'varchar'::regtype) THEN RETURN 'text';
      WHEN base IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) THEN RETURN 'integer';
      WHEN base = 'numeric'::regtype THEN RETURN 'numeric';
      WHEN base = 'uuid'::regtype THEN RETURN 'uuid';
      WHEN base = 'bool'::regtype THEN RETURN 'boolean';
      ELSE
        SELECT t.typtype, t.typbasetype INTO form, base FROM pg_catalog.pg_type t WHERE t.oid = base;
        IF form = 'e' THEN RETURN 'enum'; END IF;
        IF form IS DISTINCT FROM 'd' THEN RETURN NULL; END IF;
    END CASE;
  END LOOP;
END
$$;
COMMENT ON FUNCTION afterdelete.placeholder_kind(oid) IS 'text, integer, numeric, uuid, boolean or enum; NULL for a type that no placeholder may have. A domain counts as what it is made of.';

-- As their type writes it, whatever the session's settings and casts; texts byte by byte, whatever their collation. They are cut
-- where no target is that long: two values of a gigabyte each cannot be put together.
CREATE FUNCTION afterdelete.column_text(reference text, type oid) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT CASE afterdelete.placeholder_kind(type)
           WHEN 'text' THEN format('left(%s, 4097) COLLATE "C"', reference)
           -- Not a cast, which could be a function of the type's owner.
           WHEN 'enum' THEN format('CASE WHEN %1$s IS NOT NULL THEN concat(%1$s) END COLLATE "C"', reference)
           ELSE reference || '::text' END
$$;
COMMENT ON FUNCTION afterdelete.column_text(text, oid) IS 'The expression that gives the value of a column as it stands in a target.';

CREATE FUNCTION afterdelete.relation_tree(relation oid) RETURNS SETOF oid LANGUAGE sql STABLE AS $$
  WITH RECURSIVE tree (oid) AS (
    SELECT relation
    UNION
    SELECT i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid AND NOT i.inhdetachpending
  )
  SELECT t.oid FROM tree t
$$;
COMMENT ON FUNCTION afterdelete.relation_tree(oid) IS 'A table with all its partitions and inheriting tables.';

CREATE FUNCTION afterdelete.is_trusted(role oid) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT role = current_user::regrole OR (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.oid = role)
$$;
COMMENT ON FUNCTION afterdelete.is_trusted(oid) IS 'Whether a role''s functions may run with the rights of the schema''s owner: its own and those of superusers.';

-- Constants are written in the style of the session, and read in that of another one.
CREATE FUNCTION afterdelete.shown_predicate(index oid) RETURNS text LANGUAGE sql STABLE
SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET extra_float_digits = 3 AS $$
  SELECT pg_get_expr(i.indpred, i.indrelid) FROM pg_catalog.pg_index i WHERE i.indexrelid = index
$$;
COMMENT ON FUNCTION afterdelete.shown_predicate(oid) IS 'The predicate of an index in words that mean the same in every session.';

-- A condition is tried as the predicate of an index on a table of the same columns: PostgreSQL itself says whether it is
-- immutable and names only its own row, and which columns and functions it depends on.
CREATE FUNCTION afterdelete.read_condition(relation regclass, condition text, OUT canonical text, OUT columns text[], OUT careful boolean)
LANGUAGE plpgsql AS $$
DECLARE
  index_oid oid;
  nodes text;
  stranger text;
BEGIN
  EXECUTE format('CREATE TABLE afterdelete.condition_of_a_watch (LIKE %s)', relation);
  BEGIN
    EXECUTE format('CREATE INDEX condition_of_a_watch_index ON afterdelete.condition_of_a_watch ((1)) WHERE (%s' || E'\n' || ')', condition);
  EXCEPTION WHEN OTHERS THEN
    PERFORM afterdelete.watch_error(format('the condition %L cannot be used on %s: %s', condition, relation, SQLERRM),
      'A condition is immutable and names only columns of its own row, e.g. deleted_at IS NULL. Names outside pg_catalog are written in full.');
  END;
  index_oid := 'afterdelete.condition_of_a_watch_index'::regclass;
  -- What is always true leaves no predicate.
  canonical := coalesce(afterdelete.shown_predicate(index_oid), 'true');
  SELECT coalesce(i.indpred::text, '') INTO nodes FROM pg_index i WHERE i.indexrelid = index_oid;
  SELECT array_agg(a.attname::text) INTO columns
    FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
   WHERE d.classid = 'pg_class'::regclass AND d.objid = index_oid AND d.refobjid = 'afterdelete.condition_of_a_watch'::regclass AND d.refobjsubid > 0;
  SELECT format('%s, which belongs to %s', p.oid::regprocedure, p.proowner::regrole) INTO stranger
    FROM pg_depend d
    LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
    JOIN pg_proc p ON p.oid = CASE WHEN d.refclassid = 'pg_proc'::regclass THEN d.refobjid ELSE o.oprcode END
   WHERE d.classid = 'pg_class'::regclass AND d.objid = index_oid AND NOT afterdelete.is_trusted(p.proowner) LIMIT 1;
  -- A domain's constraints are checked when a value becomes one, and they may change.
  IF stranger IS NULL AND nodes LIKE '%{COERCETODOMAIN %' THEN
    WITH RECURSIVE domain (oid) AS (
      SELECT d.refobjid FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = index_oid AND d.refclassid = 'pg_type'::regclass
      UNION
      SELECT t.typbasetype FROM domain d JOIN pg_type t ON t.oid = d.oid WHERE t.typtype = 'd'
    )
    SELECT format('the constraints of %s, which belongs to %s', t.oid::regtype, t.typowner::regrole) INTO stranger
      FROM domain d JOIN pg_type t ON t.oid = d.oid WHERE t.typtype = 'd' AND NOT afterdelete.is_trusted(t.typowner) LIMIT 1;
  END IF;
  DROP TABLE afterdelete.condition_of_a_watch;
  IF EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = ANY (columns) AND a.attgenerated = 'v') THEN
    PERFORM afterdelete.watch_error(format('the column %I of %s is a virtual generated column, which no trigger sees',
        (SELECT min(a.attname) FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = ANY (columns) AND a.attgenerated = 'v'), relation),
      'Declare it GENERATED ALWAYS AS (...) STORED.');
  END IF;
  IF stranger IS NOT NULL THEN
    PERFORM afterdelete.watch_error(format('the condition calls %s, who could run anything as %s through it', stranger, current_user),
      format('Let it belong to %I.', current_user));
  END IF;
  IF coalesce(cardinality(columns), 0) = 0 AND canonical <> 'true' THEN
    PERFORM afterdelete.watch_error(format('the condition %L names no column of %s', condition, relation), 'Leave it out, if every row holds.');
  END IF;
  -- Comparisons that PostgreSQL calls leakproof cannot raise; nor can anything built in that is only put together from them.
  -- Everything else is run so that its errors of data are caught, which costs a subtransaction.
  careful := EXISTS (SELECT FROM regexp_matches(nodes, '\{([A-Z]+)', 'g') AS m (tag)
                      WHERE m.tag[1] NOT IN ('VAR', 'CONST', 'OPEXPR', 'BOOLEXPR', 'NULLTEST', 'BOOLEANTEST', 'SCALARARRAYOPEXPR', 'RELABELTYPE', 'DISTINCTEXPR'))
          OR EXISTS (SELECT FROM regexp_matches(nodes, ':opno ([0-9]+)', 'g') AS m (opno)
                       JOIN pg_operator o ON o.oid = m.opno[1]::oid JOIN pg_proc p ON p.oid = o.oprcode WHERE NOT p.proleakproof)
          OR EXISTS (SELECT FROM regexp_matches(nodes, ':[a-z]*(?:type|typeid|opno|collid|collation|inputcollid) ([0-9]+)', 'g') AS m (oid) WHERE m.oid[1]::bigint >= 16384);
END
$$;
COMMENT ON FUNCTION afterdelete.read_condition(regclass, text) IS
  'Proves that a condition is immutable and names only its own row; gives it as PostgreSQL reads it, with its columns, and whether it could raise.';

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
END
$$;
COMMENT ON FUNCTION afterdelete.drop_capture(bigint) IS 'Drops the trigger function of a watch with its triggers.';

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
