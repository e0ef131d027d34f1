-- The guard: who holds a target, asked just before it is deleted. What it is asked it looks up in the watched tables by their
-- indexes: the template is read backwards, from target to column values, and what is found is rendered again and compared.
--
-- It is never blind. Row-level security is an error (row_security = off), not a filtered answer; and a watch that cannot be
-- asked blocks whatever its template could render.

-- A template in the guard's form, each placeholder n as \x01n\x02, or \x03n\x02 where it may have slashes.
CREATE FUNCTION afterdelete.guarded_template(template text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  marked text := (SELECT string_agg(p.literal || CASE WHEN p.name IS NULL THEN '' WHEN p.slashes THEN E'\x03' || p.n || E'\x02' ELSE E'\x01' || p.n || E'\x02' END,
                                    '' ORDER BY p.n) FROM afterdelete.template_parts(template) p);
  path text;
BEGIN
  IF marked NOT LIKE 'file://%' THEN RETURN marked; END IF;
  path := substring(marked FROM E'^file://(?:[^/\x01-\x03]*|\x01[0-9]+\x02)((?:/|\x03).*)$');
  IF path IS NULL THEN
    PERFORM afterdelete.watch_error(format('the template %L does not say where the host ends and the path begins', template),
      'Expected file:///path, file://host/path, file://{host}/path, or file://{+path} for a column with whole paths.');
  END IF;
  RETURN 'file://' || regexp_replace(path, '(.)/$', '\1');
END
$$;
COMMENT ON FUNCTION afterdelete.guarded_template(text) IS 'A template in the form in which the guard compares, with its placeholders marked.';

-- The placeholders of a piece of that form, in order: which column, of what kind.
CREATE FUNCTION afterdelete.marked_columns(w afterdelete.watched, piece text, OUT place integer, OUT name text, OUT kind text, OUT slashes boolean, OUT rooted boolean)
RETURNS SETOF record LANGUAGE sql STABLE AS $$
  SELECT m.place::integer, p.name, k.kind, p.slashes AND k.kind IN ('text', 'enum'), p.rooted
    FROM regexp_matches(piece, E'[\x01\x03]([0-9]+)\x02', 'g') WITH ORDINALITY AS m (found, place)
    JOIN afterdelete.template_parts(w.template) p ON p.n = m.found[1]::integer
    JOIN pg_catalog.pg_attribute a ON a.attrelid = w.relation AND a.attname = p.name
   CROSS JOIN LATERAL afterdelete.placeholder_kind(a.atttypid) AS k (kind)
$$;
COMMENT ON FUNCTION afterdelete.marked_columns(afterdelete.watched, text) IS 'The columns whose placeholders stand in a piece of a template in the guard''s form.';

CREATE FUNCTION afterdelete.piece_pattern(w afterdelete.watched, piece text) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
  pattern text := '';
  token text[];
  nth integer := 0;
BEGIN
  FOR token IN SELECT regexp_matches(piece, E'([^\x01-\x03]+)|([\x01\x03][0-9]+\x02)', 'g') LOOP
    IF token[1] IS NOT NULL THEN
      pattern := pattern || afterdelete.escape_pattern(token[1]);
    ELSE
      nth := nth + 1;
      pattern := pattern || (SELECT CASE WHEN c.rooted THEN '(/.+)' WHEN c.slashes THEN '(.+)'
                                         WHEN c.kind = 'integer' THEN '(-?[0-9]{1,19})'
                                         WHEN c.kind = 'numeric' THEN '(-?[0-9]+(?:\.[0-9]+)?|NaN|-?Infinity)'
                                         WHEN c.kind = 'uuid' THEN '([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})'
                                         WHEN c.kind = 'boolean' THEN '(true|false)'
                                         ELSE '([^/]+)' END
                               FROM afterdelete.marked_columns(w, piece) c WHERE c.place = nth);
    END IF;
  END LOOP;
  RETURN pattern;
END
$$;
COMMENT ON FUNCTION afterdelete.piece_pattern(afterdelete.watched, text) IS 'The regular expression of a piece of a template, capturing the value of each placeholder in order.';

-- The beginnings of a template, cut before each slash of its path: what is above what it renders.
CREATE FUNCTION afterdelete.template_stems(form text) RETURNS SETOF text LANGUAGE sql IMMUTABLE AS $$
  SELECT c.stem FROM generate_series(1, length(form)) AS i
   CROSS JOIN LATERAL (SELECT left(form, i - 1)) AS c (stem)
   WHERE substr(form, i, 1) = '/' AND length(c.stem) > strpos(form, '://') + 2
$$;
COMMENT ON FUNCTION afterdelete.template_stems(text) IS 'The beginnings of a text, cut before each slash behind its scheme and authority''s slashes.';

-- Whether a target can come apart in one way only. Two values side by side cannot be told from each other, unless something
-- stands between them that neither can contain.
CREATE FUNCTION afterdelete.is_unambiguous(w afterdelete.watched, form text) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT (SELECT count(*) FROM afterdelete.marked_columns(w, form) c WHERE c.slashes) <= 1
     AND NOT EXISTS (
       SELECT FROM unnest(string_to_array(form, '/')) AS s (segment)
        WHERE (SELECT count(*) FROM afterdelete.marked_columns(w, s.segment) c WHERE c.kind IN ('text', 'enum')) > 1
           OR EXISTS (SELECT FROM regexp_matches(s.segment, E'\x02([^\x01-\x03]*)(?=[\x01\x03])', 'g') AS b (between)
                       WHERE b.between[1] !~ '[^0-9A-Za-z.-]'))
$$;
COMMENT ON FUNCTION afterdelete.is_unambiguous(afterdelete.watched, text) IS 'Whether column values can be read back from what a template renders.';

-- A column compared with the value that stood in its place. The types have patterns of their own, so that no cast fails.
CREATE FUNCTION afterdelete.lookup(name text, kind text, value text, slash boolean) RETURNS text LANGUAGE sql IMMUTABLE RETURN
  CASE kind
    WHEN 'integer' THEN format('t.%1$I = CASE WHEN %2$s::numeric BETWEEN -9223372036854775808 AND 9223372036854775807 THEN %2$s::bigint END', name, value)
    WHEN 'enum' THEN CASE WHEN slash THEN NULL ELSE format('concat(t.%I) = %s', name, value) END
    WHEN 'text' THEN CASE WHEN slash THEN format('t.%I = ANY (ARRAY[%2$s, %2$s || ''/''])', name, value) ELSE format('t.%I = %s', name, value) END
    ELSE format('t.%I = %s::%s', name, value, kind) END;
COMMENT ON FUNCTION afterdelete.lookup(text, text, text, boolean) IS 'The comparison of a column with the value that stood in its place; slash: which may lack its trailing slash.';

CREATE FUNCTION afterdelete.lookups(w afterdelete.watched, piece text, ends_open boolean) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT string_agg(afterdelete.lookup(c.name, c.kind, format('a.v[%s]', c.place), ends_open AND c.slashes AND piece LIKE E'%\x02'), ' AND ' ORDER BY c.place)
    FROM afterdelete.marked_columns(w, piece) c
$$;
COMMENT ON FUNCTION afterdelete.lookups(afterdelete.watched, text, boolean) IS 'The comparisons of all columns of a piece with the values that stood in their places.';

-- Nothing of ours is called in it, so that an index can be made on it, which every writer must be able to compute.
CREATE FUNCTION afterdelete.form_rendering(w afterdelete.watched, form text, alias text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT format(CASE WHEN w.template LIKE 'file://%' AND form ~ E'\x03[0-9]+\x02$' THEN 'regexp_replace(%s, ''/$'', '''') COLLATE "C"' ELSE '(%s) COLLATE "C"' END,
                string_agg(CASE WHEN m.found[1] IS NOT NULL THEN quote_literal(m.found[1]) || '::text'
                                ELSE afterdelete.column_text(alias || quote_ident(p.name), a.atttypid) END, ' || ' ORDER BY m.place))
    FROM regexp_matches(form, E'([^\x01-\x03]+)|[\x01\x03]([0-9]+)\x02', 'g') WITH ORDINALITY AS m (found, place)
    LEFT JOIN afterdelete.template_parts(w.template) p ON p.n = m.found[2]::integer
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = w.relation AND a.attname = p.name
$$;
COMMENT ON FUNCTION afterdelete.form_rendering(afterdelete.watched, text, text) IS 'The expression over the columns of a table (by alias, e.g. t.) for what a row holds in the guard''s form.';

-- In the queries \x01relation\x02, \x01key\x02 and the like are filled in when they are asked: tables are renamed, indexes made.
CREATE FUNCTION afterdelete.holding_rows(w afterdelete.watched, form text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT format(E'(SELECT t.*, \x01key\x02 AS "afterdelete key", %s AS "afterdelete held", %s AS "afterdelete form" FROM \x01relation\x02 t WHERE (%s)%s)',
                afterdelete.rendering(w), afterdelete.form_rendering(w, form, 't.'), w.condition,
                -- A host that is NULL holds nothing, though it does not show in the form.
                (SELECT string_agg(format(' AND t.%I IS NOT NULL', p.name), '') FROM afterdelete.template_parts(w.template) p
                  WHERE p.name IS NOT NULL AND p.n NOT IN (SELECT m[1]::integer FROM regexp_matches(form, E'[\x01\x03]([0-9]+)\x02', 'g') AS m)))
$$;
COMMENT ON FUNCTION afterdelete.holding_rows(afterdelete.watched, text) IS 'The subquery for the rows that hold, with their key, what they hold, and that in the guard''s form.';

CREATE FUNCTION afterdelete.exact_query(w afterdelete.watched, form text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT format('SELECT a.n, t."afterdelete key" AS key, t."afterdelete held" AS held '
                'FROM (SELECT u.n, u.form, regexp_match(u.form, %L) AS v FROM unnest($1::integer[], $2::text[]) AS u (n, form) OFFSET 0) a '
                'JOIN %s t ON %s t."afterdelete form" = a.form',
                w.exact_pattern, afterdelete.holding_rows(w, form),
                CASE WHEN afterdelete.is_unambiguous(w, form) THEN afterdelete.lookups(w, form, form LIKE 'file://%') || ' AND ' END)
$$;
COMMENT ON FUNCTION afterdelete.exact_query(afterdelete.watched, text) IS 'The query for the rows that hold exactly some targets: $1 their numbers, $2 their forms.';

-- A branch for each place where what is asked about may end: the columns before it are known, so that their index helps. One
-- more for a value with slashes that is longer than what is asked about: its beginnings are a range of an index.
CREATE FUNCTION afterdelete.below_query(w afterdelete.watched, form text) RETURNS text LANGUAGE sql STABLE AS $$
  WITH branch (pattern, lookups) AS (
    SELECT '^' || afterdelete.piece_pattern(w, s.stem) || '$', afterdelete.lookups(w, s.stem, false)
      FROM afterdelete.template_stems(form) AS s (stem) WHERE afterdelete.is_unambiguous(w, form)
    UNION ALL
    SELECT '^' || afterdelete.piece_pattern(w, h.head) || CASE WHEN c.rooted THEN '(/.*)$' ELSE '(.*)$' END,
           concat_ws(' AND ', afterdelete.lookups(w, h.head, false),
                     CASE c.kind WHEN 'text' THEN format(E't.%1$I \x01from\x02 (a.v[%2$s] || ''/'') AND t.%1$I \x01before\x02 (a.v[%2$s] || ''0'')', c.name, c.place) END)
      FROM (SELECT substring(form FROM E'^([^\x03]*)\x03')) AS h (head)
     CROSS JOIN LATERAL (SELECT * FROM afterdelete.marked_columns(w, form) m WHERE m.slashes LIMIT 1) c
     WHERE afterdelete.is_unambiguous(w, form)
    UNION ALL
    SELECT '', NULL WHERE NOT afterdelete.is_unambiguous(w, form)
  )
  SELECT string_agg(format(E'SELECT a.n, h.key, h.held FROM (SELECT u.n, u.stem, regexp_match(u.stem, %L) AS v FROM unnest($1::integer[], $2::text[]) AS u (n, stem) OFFSET 0) a '
                           'CROSS JOIN LATERAL (SELECT t."afterdelete key" AS key, t."afterdelete held" AS held FROM %s t '
                           'WHERE %s starts_with(t."afterdelete form", a.stem || ''/'') AND t."afterdelete form" <> a.stem || ''/'' \x01limit\x02) h WHERE a.v IS NOT NULL',
                           b.pattern, afterdelete.holding_rows(w, form), b.lookups || ' AND '), ' UNION ALL ')
    FROM branch b
$$;
COMMENT ON FUNCTION afterdelete.below_query(afterdelete.watched, text) IS 'The query for rows that hold something below some trees: $1 their numbers, $2 their forms without trailing slash.';

CREATE FUNCTION afterdelete.scan_query(w afterdelete.watched, form text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT format('SELECT DISTINCT ON (a.n) a.n, t.key, t.held '
                'FROM (SELECT t."afterdelete key" AS key, t."afterdelete held" AS held, t."afterdelete form" AS form FROM %s t OFFSET 0) t '
                'CROSS JOIN (SELECT DISTINCT length(s) FROM unnest($2::text[]) AS s) AS l (length) '
                'JOIN unnest($1::integer[], $2::text[]) AS a (n, stem) ON a.stem = left(t.form, l.length) '
                'WHERE substr(t.form, l.length + 1, 1) = ''/'' AND length(t.form) > l.length + 1', afterdelete.holding_rows(w, form))
$$;
COMMENT ON FUNCTION afterdelete.scan_query(afterdelete.watched, text) IS 'What below_query asks, in one pass over the table.';

CREATE FUNCTION afterdelete.above_pattern(w afterdelete.watched, form text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT coalesce('^(?:' || string_agg(p.pattern, '|') || ')$', '^$')
    FROM (SELECT afterdelete.piece_pattern(w, s.stem) FROM afterdelete.template_stems(form) AS s (stem)
          UNION ALL
          SELECT afterdelete.piece_pattern(w, substring(form FROM E'^([^\x03]*)\x03')) || '.*' WHERE form LIKE E'%\x03%') AS p (pattern)
$$;
COMMENT ON FUNCTION afterdelete.above_pattern(afterdelete.watched, text) IS 'The regular expression of all above what a template could render.';

-- What the guard needs to know of a watch, worked out when it is declared.
CREATE FUNCTION afterdelete.prepare_guard(INOUT w afterdelete.watched) LANGUAGE plpgsql STABLE AS $$
DECLARE
  form text := afterdelete.guarded_template(w.template);
BEGIN
  w.prefix := substring(form FROM E'^[^\x01-\x03]*');
  w.exact_pattern := '^' || afterdelete.piece_pattern(w, form) || '$';
  w.above_pattern := afterdelete.above_pattern(w, form);
  w.exact_query := afterdelete.exact_query(w, form);
  w.below_query := afterdelete.below_query(w, form);
  w.scan_query := afterdelete.scan_query(w, form);
  w.prefix_column := (SELECT c.name FROM afterdelete.marked_columns(w, form) c WHERE c.slashes AND afterdelete.is_unambiguous(w, form));
  w.readable := afterdelete.is_unambiguous(w, form);
END
$$;
COMMENT ON FUNCTION afterdelete.prepare_guard(afterdelete.watched) IS 'Works out how the guard asks a watch.';

CREATE FUNCTION afterdelete.orders_by_bytes(collation_of oid) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN collation_of = '"default"'::regcollation
              THEN (SELECT d.datlocprovider = 'b' OR (d.datlocprovider = 'c' AND d.datcollate IN ('C', 'POSIX', 'C.UTF-8', 'C.utf8'))
                      FROM pg_catalog.pg_database d WHERE d.datname = current_database())
              ELSE (SELECT c.collprovider = 'b' OR (c.collprovider = 'c' AND c.collcollate IN ('C', 'POSIX', 'C.UTF-8', 'C.utf8'))
                      FROM pg_catalog.pg_collation c WHERE c.oid = collation_of) END
$$;
COMMENT ON FUNCTION afterdelete.orders_by_bytes(oid) IS 'Whether a collation orders texts by their bytes, so that the beginnings of values are a range of an ordinary index.';

CREATE FUNCTION afterdelete.fill_query(w afterdelete.watched, query text, every boolean) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
  plainly boolean := coalesce(afterdelete.orders_by_bytes((SELECT a.attcollation FROM pg_attribute a WHERE a.attrelid = w.relation AND a.attname = w.prefix_column)), false);
BEGIN
  query := replace(query, E'\x01relation\x02', w.relation::text);
  query := replace(query, E'\x01key\x02', afterdelete.row_key(w.relation, w.columns));
  query := replace(query, E'\x01limit\x02', CASE WHEN every THEN '' ELSE 'LIMIT 1' END);
  query := replace(query, E'\x01from\x02', CASE WHEN plainly THEN '>=' ELSE 'OPERATOR(pg_catalog.~>=~)' END);
  RETURN replace(query, E'\x01before\x02', CASE WHEN plainly THEN '<' ELSE 'OPERATOR(pg_catalog.~<~)' END);
END
$$;
COMMENT ON FUNCTION afterdelete.fill_query(afterdelete.watched, text, boolean) IS 'A query of the guard as it is asked now. every: all rows, not one a tree.';

CREATE FUNCTION afterdelete.has_prefix_index(w afterdelete.watched) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT EXISTS (
    SELECT FROM pg_catalog.pg_index i
      JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[0]
      JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
     WHERE i.indrelid = w.relation AND i.indisvalid AND i.indpred IS NULL
       AND (a.attname <> w.prefix_column AND a.attname = ANY (w.columns)
            OR a.attname = w.prefix_column AND (o.opcname LIKE '%\_pattern\_ops' OR o.opcmethod = (SELECT m.oid FROM pg_catalog.pg_am m WHERE m.amname = 'btree')
                                                AND afterdelete.orders_by_bytes(i.indcollation[0]))))
$$;
COMMENT ON FUNCTION afterdelete.has_prefix_index(afterdelete.watched) IS 'Whether an index finds values by their beginnings, or by another column of the template.';

CREATE FUNCTION afterdelete.common_beginning(texts text[]) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  first text;
  last text;
  same integer := 0;
BEGIN
  SELECT min(t COLLATE "C"), max(t COLLATE "C") INTO first, last FROM unnest(texts) AS t;
  WHILE same < length(first) AND substr(first, same + 1, 1) = substr(last, same + 1, 1) LOOP same := same + 1; END LOOP;
  RETURN left(first, same);
END
$$;
COMMENT ON FUNCTION afterdelete.common_beginning(text[]) IS 'With what all of some texts begin.';

-- Where no index helps, a few trees are looked up one by one, and many in one pass over the table.
-- STABLE: all its queries see one moment. A hold that moves from one table to another in one transaction stands in one of
-- them at every moment, but not in one of them at two. unasked: watches whose tables could not be locked, and why.
CREATE FUNCTION afterdelete.ask_at_one_moment(targets text[], every boolean, unasked bigint[], reasons text[])
RETURNS TABLE (n integer, exact boolean, watch bigint, relation regclass, key jsonb, held text, problem text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET row_security = off SET lock_timeout = '2s'
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
  w afterdelete.watched;
  forms text[];
  stems text[];
  numbers integer[];
  asked text[];
  beginning text;
BEGIN
  SELECT array_agg(f.form ORDER BY t.n), array_agg(CASE WHEN f.form LIKE 'file://%' THEN f.form WHEN right(f.form, 1) = '/' THEN left(f.form, -1) END ORDER BY t.n)
    INTO forms, stems
    FROM unnest(targets) WITH ORDINALITY AS t (target, n) CROSS JOIN LATERAL afterdelete.guarded_form(t.target) AS f (form);
  beginning := afterdelete.common_beginning(forms);
  FOR w IN SELECT * FROM afterdelete.watched o WHERE starts_with(o.prefix, beginning) OR starts_with(beginning, o.prefix) ORDER BY o.id LOOP
    BEGIN
      IF w.id = ANY (unasked) THEN RAISE EXCEPTION '%', reasons[array_position(unasked, w.id)]; END IF;
      SELECT array_agg(u.n), array_agg(u.form) INTO numbers, asked
        FROM unnest(forms) WITH ORDINALITY AS u (form, n) WHERE starts_with(u.form, w.prefix);
      IF numbers IS NOT NULL THEN
        RETURN QUERY EXECUTE 'SELECT q.n, true, $3, $4, q.key, q.held, NULL::text FROM (' || afterdelete.fill_query(w, w.exact_query, every) || ') q'
          USING numbers, asked, w.id, w.relation;
      END IF;
      SELECT array_agg(u.n), array_agg(u.stem) INTO numbers, asked
        FROM unnest(stems) WITH ORDINALITY AS u (stem, n) WHERE u.stem ~ w.above_pattern;
      IF numbers IS NOT NULL THEN
        RETURN QUERY EXECUTE 'SELECT q.n, false, $3, $4, q.key, q.held, NULL::text FROM ('
            || afterdelete.fill_query(w, CASE WHEN every OR cardinality(numbers) <= 8 OR w.readable AND (w.prefix_column IS NULL OR afterdelete.has_prefix_index(w))
                                              THEN w.below_query ELSE w.scan_query END, every) || ') q'
          USING numbers, asked, w.id, w.relation;
      END IF;
    EXCEPTION WHEN OTHERS THEN
      RETURN QUERY
        SELECT u.n::integer, false, w.id, w.relation, NULL::jsonb, NULL::text,
               format('the watch %L on %s cannot be asked: %s. Until it can, it blocks what it could hold. Declare it anew (it was: %s), or remove it: %s',
                      w.template, w.relation_name, SQLERRM, afterdelete.declaration(w), afterdelete.removal(w))
          FROM unnest(forms, stems) WITH ORDINALITY AS u (form, stem, n)
         WHERE u.form ~ w.exact_pattern OR u.stem ~ w.above_pattern;
    END;
  END LOOP;
END
$$;
COMMENT ON FUNCTION afterdelete.ask_at_one_moment(text[], boolean, bigint[], text[]) IS 'What ask_holders asks, once it has locked the tables.';

-- The locks come before the snapshot: whoever waits for a TRUNCATE with a snapshot from before it sees no rows at all, neither
-- those that were there nor where they went.
CREATE FUNCTION afterdelete.ask_holders(targets text[], every boolean DEFAULT false)
RETURNS TABLE (n integer, exact boolean, watch bigint, relation regclass, key jsonb, held text, problem text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
  w record;
  unasked bigint[];
  reasons text[];
  beginning text := afterdelete.common_beginning(ARRAY(SELECT afterdelete.guarded_form(t.target) FROM unnest(targets) AS t (target)));
BEGIN
  FOR w IN SELECT o.id, o.relation FROM afterdelete.watched o WHERE starts_with(o.prefix, beginning) OR starts_with(beginning, o.prefix) ORDER BY o.id LOOP
    BEGIN
      EXECUTE format('LOCK TABLE %s IN ACCESS SHARE MODE', w.relation);
    EXCEPTION WHEN OTHERS THEN
      unasked := unasked || w.id;
      reasons := reasons || SQLERRM;
    END;
  END LOOP;
  RETURN QUERY SELECT * FROM afterdelete.ask_at_one_moment(targets, every, unasked, reasons);
END
$$;
COMMENT ON FUNCTION afterdelete.ask_holders(text[], boolean) IS
  'The live rows that hold targets exactly or something below them, one or two queries a watch. every: all of them, not one a tree. problem: '
  'why a watch could not be asked, for each target that it could hold.';

CREATE FUNCTION afterdelete.ask_or_raise(target text, every boolean) RETURNS TABLE (exact boolean, relation regclass, key jsonb, held text)
LANGUAGE plpgsql AS $$
DECLARE
  rule text := afterdelete.broken_rule(target);
  problem text;
BEGIN
  IF target IS NULL OR rule IS NOT NULL THEN
    RAISE EXCEPTION 'not a target: % (%)', coalesce(quote_literal(target), 'NULL'), coalesce(rule, 'it is NULL')
      USING ERRCODE = 'invalid_parameter_value', HINT = 'A target is, for example, file:///data/a.bin, file:///data/t1/ or s3://bucket/key.';
  END IF;
  FOR exact, relation, key, held, problem IN
    SELECT h.exact, h.relation, h.key, h.held, h.problem FROM afterdelete.ask_holders(ARRAY[target], every) h
  LOOP
    IF problem IS NOT NULL THEN
      RAISE EXCEPTION '%', problem USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN NEXT;
  END LOOP;
END
$$;
COMMENT ON FUNCTION afterdelete.ask_or_raise(text, boolean) IS 'The live rows that hold a target or something below it; raises for what is no target, and when a watch that could hold it cannot be asked.';

CREATE FUNCTION afterdelete.holders(target text, OUT relation regclass, OUT key jsonb, OUT held text) RETURNS SETOF record
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT h.relation, h.key, h.held FROM afterdelete.ask_or_raise(target, true) h
$$;
COMMENT ON FUNCTION afterdelete.holders(text) IS
  'The live rows that hold a target, or something below it: table, key, and what each holds. Raises when a watch that could hold it cannot be asked.';

CREATE FUNCTION afterdelete.is_held(target text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(bool_or(h.exact), false) FROM afterdelete.ask_or_raise(target, false) h
$$;
COMMENT ON FUNCTION afterdelete.is_held(text) IS 'Whether a live row holds exactly this target. For file: host and trailing slash make no difference. Raises as holders() does.';

-- Guards of a user's own.

CREATE TABLE afterdelete.custom_guard (
  name        text PRIMARY KEY,
  fn          text NOT NULL,
  declared_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE afterdelete.custom_guard IS 'Functions that can block a cleanup. Written by afterdelete.guard() and afterdelete.unguard().';
COMMENT ON COLUMN afterdelete.custom_guard.name IS 'What stuck says when it blocks.';
COMMENT ON COLUMN afterdelete.custom_guard.fn IS 'A function (target text) that returns a boolean, with its schema and arguments; true blocks. By name: a migration may make it anew.';
COMMENT ON COLUMN afterdelete.custom_guard.declared_at IS 'When it was declared.';

-- Asked each time: between two questions the function may be made anew, by an owner of its own and without SECURITY DEFINER.
CREATE FUNCTION afterdelete.guard_fault(fn text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN f.oid IS NULL THEN format('the function %s is not there', fn)
              WHEN NOT p.prosecdef AND NOT afterdelete.is_trusted(p.proowner)
                THEN format('the function %s belongs to %s, who could run anything as %s through it', fn, p.proowner::regrole, current_user) END
    FROM to_regprocedure(fn) AS f (oid) LEFT JOIN pg_catalog.pg_proc p ON p.oid = f.oid
$$;
COMMENT ON FUNCTION afterdelete.guard_fault(text) IS 'Why a function may not be called as a guard; NULL: it may.';

CREATE FUNCTION afterdelete.guard(name text, fn regprocedure) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
DECLARE
  routine pg_proc;
  problem text;
BEGIN
  SELECT * INTO routine FROM pg_proc p WHERE p.oid = guard.fn;
  IF coalesce(guard.name, '') = '' OR NOT FOUND THEN
    RAISE EXCEPTION 'guard: expected a name and a function, got % and %', coalesce(quote_literal(guard.name), 'NULL'), coalesce(guard.fn::text, 'NULL')
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  IF routine.proargtypes <> ARRAY['text'::regtype::oid]::oidvector OR routine.prorettype <> 'boolean'::regtype OR routine.proretset OR routine.prokind <> 'f' THEN
    RAISE EXCEPTION 'guard %: expected a function (target text) that returns boolean, got %', quote_literal(guard.name), pg_get_function_identity_arguments(guard.fn) || ' returns ' || coalesce(pg_get_function_result(guard.fn), 'nothing')
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  problem := afterdelete.guard_fault(guard.fn::text);
  IF problem IS NOT NULL THEN
    RAISE EXCEPTION 'guard %: %', quote_literal(guard.name), problem
      USING ERRCODE = 'insufficient_privilege',
            HINT = format('Let it belong to %I, or declare it SECURITY DEFINER, so that it runs as its owner.', current_user);
  END IF;
  -- What would block every cleanup later is better told now.
  BEGIN
    EXECUTE format('SELECT %s($1)', guard.fn::regproc) USING 'file:///afterdelete/guard';
  EXCEPTION WHEN OTHERS THEN
    RAISE EXCEPTION 'guard %: % cannot be called: %', quote_literal(guard.name), guard.fn, SQLERRM
      USING ERRCODE = 'invalid_parameter_value',
            HINT = format('It runs as %s with search_path = pg_catalog, pg_temp: write the names in it in full, or give it a SET search_path of its own.', current_user);
  END;
  INSERT INTO afterdelete.custom_guard AS g (name, fn) VALUES (guard.name, guard.fn::text)
  ON CONFLICT ON CONSTRAINT custom_guard_pkey DO UPDATE SET fn = excluded.fn, declared_at = clock_timestamp();
END
$$;
COMMENT ON FUNCTION afterdelete.guard(text, regprocedure) IS
  'Declares a function (target text) -> boolean that is asked before each cleanup; true, or an error, blocks it. Again under the same name: replaces it.';

CREATE FUNCTION afterdelete.unguard(name text) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  DELETE FROM afterdelete.custom_guard g WHERE g.name = unguard.name
$$;
COMMENT ON FUNCTION afterdelete.unguard(text) IS 'Removes a guard; nothing happens when there is none of that name.';

CREATE FUNCTION afterdelete.ask_guards(targets text[], OUT n integer, OUT reason text) RETURNS SETOF record
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off SET lock_timeout = '2s' AS $$
DECLARE
  g afterdelete.custom_guard;
  fault text;
  blocks boolean;
  target text;
BEGIN
  FOR g IN SELECT * FROM afterdelete.custom_guard o ORDER BY o.name LOOP
    fault := afterdelete.guard_fault(g.fn);
    IF fault IS NOT NULL THEN
      RETURN QUERY SELECT u.n::integer, format('the guard %L cannot be asked: %s. Mend the function, or remove the guard: SELECT afterdelete.unguard(%L)', g.name, fault, g.name)
                     FROM unnest(targets) WITH ORDINALITY AS u (target, n);
      CONTINUE;
    END IF;
    BEGIN
      RETURN QUERY EXECUTE format('SELECT u.n::integer, $2 FROM unnest($1) WITH ORDINALITY AS u (target, n) WHERE coalesce(%s(u.target), true)', g.fn::regprocedure::regproc)
        USING targets, format('the guard %L says that it is in use', g.name);
    EXCEPTION WHEN OTHERS THEN
      -- One target may be at fault, and not the others: asked one by one.
      FOR n, target IN SELECT u.n, u.target FROM unnest(targets) WITH ORDINALITY AS u (target, n) LOOP
        BEGIN
          EXECUTE format('SELECT coalesce(%s($1), true)', g.fn::regprocedure::regproc) INTO blocks USING target;
          reason := format('the guard %L says that it is in use', g.name);
        EXCEPTION WHEN OTHERS THEN
          blocks := true;
          reason := format('the guard %L cannot be asked: %s. Mend the function, or remove the guard: SELECT afterdelete.unguard(%L)', g.name, SQLERRM, g.name);
        END;
        IF blocks THEN RETURN NEXT; END IF;
      END LOOP;
    END;
  END LOOP;
END
$$;
COMMENT ON FUNCTION afterdelete.ask_guards(text[]) IS 'Which targets the guards declared by afterdelete.guard() block, and why. One that gives NULL blocks, too.';

CREATE FUNCTION afterdelete.verdicts(targets text[], OUT n integer, OUT verdict text, OUT reason text) RETURNS SETOF record
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT DISTINCT ON (v.n) v.n, v.verdict, v.reason
    FROM (SELECT h.n, CASE WHEN h.exact THEN 'kept' ELSE 'blocked' END, CASE WHEN h.exact THEN 1 WHEN h.problem IS NULL THEN 2 ELSE 3 END,
                 coalesce(h.problem, CASE WHEN h.exact THEN format('%s %s holds it', h.relation, h.key)
                                          ELSE format('%s %s holds %s below it', h.relation, h.key, h.held) END)
            FROM afterdelete.ask_holders(targets) h
          UNION ALL
          SELECT g.n, 'blocked', 4, g.reason FROM afterdelete.ask_guards(targets) g) AS v (n, verdict, rank, reason)
   ORDER BY v.n, v.rank
$$;
COMMENT ON FUNCTION afterdelete.verdicts(text[]) IS 'What the guard says of targets, by their number in the array: kept (a live row holds exactly this) or blocked, and why; nothing: free to go.';

-- Whether the guard's queries find rows by an index, as the planner sees it.
CREATE FUNCTION afterdelete.reads_whole_table(w afterdelete.watched, query text) RETURNS boolean LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_mergejoin = off SET enable_hashjoin = off SET row_security = off AS $$
DECLARE
  plan text;
BEGIN
  EXECUTE 'EXPLAIN (FORMAT JSON) ' || afterdelete.fill_query(w, query, false) INTO plan USING '{1}'::integer[], ARRAY[w.prefix || 'x'];
  RETURN plan LIKE '%"Seq Scan"%' OR plan NOT LIKE '%"Index Cond"%';
END
$$;
COMMENT ON FUNCTION afterdelete.reads_whole_table(afterdelete.watched, text) IS 'Whether the guard would read the whole table to ask a watch.';

CREATE FUNCTION afterdelete.index_advice(w afterdelete.watched) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  form text := afterdelete.guarded_template(w.template);
  locking text := CASE WHEN (SELECT c.relkind FROM pg_class c WHERE c.oid = w.relation) = 'p' THEN '' ELSE 'CONCURRENTLY ' END;
  columns text;
BEGIN
  IF NOT w.readable THEN
    IF NOT afterdelete.reads_whole_table(w, w.exact_query) THEN RETURN NULL; END IF;
    -- Values that cannot be read back: what is rendered is looked up itself.
    IF EXISTS (SELECT FROM afterdelete.marked_columns(w, form) c WHERE c.kind = 'enum') THEN
      RETURN 'put a character between the placeholders that neither value can have, or use text instead of an enum';
    END IF;
    RETURN format('CREATE INDEX %sON %s ((%s))', locking, w.relation, afterdelete.form_rendering(w, form, ''));
  END IF;
  IF w.prefix_column IS NOT NULL AND NOT afterdelete.has_prefix_index(w) THEN
    RETURN format('CREATE INDEX %sON %s (%I text_pattern_ops)', locking, w.relation, w.prefix_column);
  END IF;
  IF NOT afterdelete.reads_whole_table(w, w.exact_query) THEN RETURN NULL; END IF;
  SELECT string_agg(quote_ident(c.name), ', ' ORDER BY c.place) INTO columns FROM afterdelete.marked_columns(w, form) c WHERE c.kind <> 'enum';
  RETURN format('CREATE INDEX %sON %s (%s)', locking, w.relation, columns);
END
$$;
COMMENT ON FUNCTION afterdelete.index_advice(afterdelete.watched) IS 'The index that the guard lacks for a watch; NULL when it has what it needs.';

CREATE FUNCTION afterdelete.watch_problems(OUT relation text, OUT template text, OUT broken boolean, OUT problem text, OUT remedy text) RETURNS SETOF record
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off SET lock_timeout = '2s' AS $$
DECLARE
  w afterdelete.watched;
  advice text;
BEGIN
  -- As after a restore of the schema without its rows.
  FOR relation, problem IN
    SELECT g.tgrelid::regclass::text, format('not captured: the trigger %I belongs to no watch', g.tgname)
      FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
     WHERE p.pronamespace = 'afterdelete'::regnamespace AND p.proname LIKE 'capture\_%' AND NOT g.tgisinternal AND g.tgparentid = 0
       AND NOT EXISTS (SELECT FROM afterdelete.watched o WHERE p.proname = 'capture_' || o.id)
     ORDER BY 1, 2
  LOOP
    broken := true;
    remedy := format('declare the watches of %s again', relation);
    RETURN NEXT;
  END LOOP;
  FOR w IN SELECT * FROM afterdelete.watched o ORDER BY o.relation_name, o.template LOOP
    relation := w.relation_name;
    template := w.template;
    broken := true;
    remedy := afterdelete.declaration(w);
    IF NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = w.relation) THEN
      problem := 'the table is gone; the guard blocks all that it could have held';
      remedy := afterdelete.removal(w);
      RETURN NEXT;
      CONTINUE;
    END IF;
    problem := afterdelete.altered_columns(w.id, w.relation);
    IF problem IS NOT NULL THEN
      problem := problem || '; what its rows held is not captured, and the guard blocks all that it could hold';
      remedy := 'declare it anew for the table as it is; it was: ' || remedy;
      RETURN NEXT;
      CONTINUE;
    END IF;
    IF w.each_row <> afterdelete.needs_row_triggers(w.relation) THEN
      problem := 'the table was made a partition, or inherits, since it was declared: some statements are not captured';
      RETURN NEXT;
    END IF;
    SELECT string_agg(format('%s of %s', upper(m.event), m.relation), ', ' ORDER BY m.relation::text, m.event) INTO problem FROM afterdelete.missing_triggers(w) m;
    IF problem IS NOT NULL THEN
      problem := 'not captured, because there is no trigger: ' || problem;
      RETURN NEXT;
    END IF;
    SELECT string_agg(format('%s, who owns %s, can make no partitions of it', c.relowner::regrole, c.oid::regclass), '; ' ORDER BY c.oid::regclass::text) INTO problem
      FROM afterdelete.relation_tree(w.relation) AS t (oid) JOIN pg_class c ON c.oid = t.oid
     WHERE c.relkind = 'p' AND NOT has_function_privilege(c.relowner, format('afterdelete.capture_%s()', w.id), 'EXECUTE');
    IF problem IS NOT NULL THEN
      RETURN NEXT;
    END IF;
    FOR problem, remedy IN
      SELECT format('not captured, because a trigger of %s %s', g.tgrelid::regclass, CASE g.tgenabled WHEN 'D' THEN 'is disabled' ELSE 'fires for a replica only' END), format('ALTER TABLE %s ENABLE TRIGGER %I', g.tgrelid::regclass, g.tgname)
        FROM pg_trigger g WHERE g.tgfoid = to_regproc(format('afterdelete.capture_%s', w.id)) AND g.tgenabled IN ('D', 'R')
    LOOP
      RETURN NEXT;
    END LOOP;
    BEGIN
      EXECUTE 'EXPLAIN ' || afterdelete.fill_query(w, w.exact_query, false) USING '{}'::integer[], '{}'::text[];
      broken := false;
      advice := afterdelete.index_advice(w);
      IF advice IS NOT NULL THEN
        problem := 'no index finds its rows: the guard reads the whole table for every batch';
        remedy := advice;
        RETURN NEXT;
      END IF;
    EXCEPTION WHEN OTHERS THEN
      broken := true;
      problem := 'it cannot be asked: ' || SQLERRM;
      remedy := 'mend that, or declare it anew; it was: ' || afterdelete.declaration(w);
      RETURN NEXT;
    END;
  END LOOP;
END
$$;
COMMENT ON FUNCTION afterdelete.watch_problems() IS 'What is wrong with watches, and the remedy. broken: holds end uncaptured or what it could hold is blocked; else it is only slow.';

CREATE FUNCTION afterdelete.guard_problems(OUT name text, OUT problem text) RETURNS SETOF record
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off SET lock_timeout = '2s' AS $$
DECLARE
  g afterdelete.custom_guard;
BEGIN
  FOR g IN SELECT * FROM afterdelete.custom_guard o ORDER BY o.name LOOP
    name := g.name;
    problem := afterdelete.guard_fault(g.fn);
    IF problem IS NULL THEN
      BEGIN
        EXECUTE format('SELECT %s($1)', g.fn::regprocedure::regproc) USING 'file:///afterdelete/guard';
      EXCEPTION WHEN OTHERS THEN
        problem := SQLERRM;
      END;
    END IF;
    IF problem IS NOT NULL THEN RETURN NEXT; END IF;
  END LOOP;
END
$$;
COMMENT ON FUNCTION afterdelete.guard_problems() IS 'Guards that cannot be asked, so that they block everything, and why.';
