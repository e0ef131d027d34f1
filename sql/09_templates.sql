-- Watches: which rows hold which targets, declared once. Here is what is kept of a declaration, and how its template and its
-- condition are read. 10_watch.sql takes it; 11_capture.sql writes its triggers; the guard (12 to 14) asks the rows that hold.

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
  depth         integer,
  exact_query   text NOT NULL,
  below_query   text,
  scan_query    text NOT NULL,
  prefix_column text,
  leading_columns text[] NOT NULL,
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
COMMENT ON COLUMN afterdelete.watched.depth IS 'Segments of all that it could render, those of the scheme included; NULL where a value may have slashes.';
COMMENT ON COLUMN afterdelete.watched.exact_query IS 'How the guard asks which rows hold exactly some targets.';
COMMENT ON COLUMN afterdelete.watched.below_query IS 'How the guard asks which rows hold something below some trees, by index.';
COMMENT ON COLUMN afterdelete.watched.scan_query IS 'The same where no index helps: one pass over the table for a whole batch.';
COMMENT ON COLUMN afterdelete.watched.prefix_column IS 'The column of {+column}, whose beginnings the guard looks for; it wants an index that can.';
COMMENT ON COLUMN afterdelete.watched.leading_columns IS 'Columns by which rows below a tree are found, where a tree can end behind their value: an index wants to begin with one of them.';
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
  CASE WHEN starts_with(target, 'file:///') AND right(target, 1) <> '/' THEN target
       WHEN starts_with(target, 'file://')
       THEN 'file://' || substr(target, 7 + strpos(substr(target, 8), '/'),
                                CASE WHEN right(target, 1) = '/' THEN length(target) - 7 - strpos(substr(target, 8), '/') ELSE length(target) END)
       ELSE target END;
COMMENT ON FUNCTION afterdelete.guarded_form(text) IS 'A target as the guard compares it: for file: without host and trailing slash.';

CREATE FUNCTION afterdelete.escape_pattern(literal text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
  regexp_replace(literal, '([][\\.^$*+?(){}|-])', '\\\1', 'g');
COMMENT ON FUNCTION afterdelete.escape_pattern(text) IS 'A regular expression that matches exactly this text.';

CREATE FUNCTION afterdelete.watch_error(problem text, expected text DEFAULT NULL) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF expected IS NULL THEN RAISE EXCEPTION 'nothing is watched: %', problem USING ERRCODE = 'invalid_parameter_value'; END IF;
  RAISE EXCEPTION 'nothing is watched: %', problem USING ERRCODE = 'invalid_parameter_value', HINT = expected;
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
