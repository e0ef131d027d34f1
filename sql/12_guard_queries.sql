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
                                         WHEN c.kind = 'integer' THEN '(-?[0-9]+)'
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
    WHEN 'integer' THEN format('t.%1$I = CASE WHEN length(%2$s) <= 18 THEN %2$s::bigint WHEN %2$s::numeric BETWEEN -9223372036854775808 AND 9223372036854775807 THEN %2$s::bigint END', name, value)
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
  SELECT format(E'(SELECT %s, \x01key\x02 AS "afterdelete key", %s AS "afterdelete held", %s AS "afterdelete form" FROM \x01relation\x02 t WHERE (%s)%s)',
                (SELECT string_agg(format('t.%I', c), ', ') FROM unnest(w.columns) AS c), afterdelete.rendering(w), afterdelete.form_rendering(w, form, 't.'), w.condition,
                -- A host that is NULL holds nothing, though it does not show in the form.
                (SELECT string_agg(format(' AND t.%I IS NOT NULL', p.name), '') FROM afterdelete.template_parts(w.template) p
                  WHERE p.name IS NOT NULL AND p.n NOT IN (SELECT m[1]::integer FROM regexp_matches(form, E'[\x01\x03]([0-9]+)\x02', 'g') AS m)))
$$;
COMMENT ON FUNCTION afterdelete.holding_rows(afterdelete.watched, text) IS 'The subquery for the rows that hold, with their key, what they hold, and that in the guard''s form.';

-- Matching each target with a regular expression would be most of the guard's work. It is not needed where values can be cut out:
-- what stands between what is before and behind the only placeholder, or of a segment that holds one. Whether it was right shows
-- when what is found is rendered.
CREATE FUNCTION afterdelete.read_value(kind text, value text) RETURNS text LANGUAGE sql IMMUTABLE RETURN
  CASE kind
    WHEN 'integer' THEN format('CASE WHEN translate(%1$s, ''0123456789'', '''') IN ('''', ''-'') AND %1$s NOT IN ('''', ''-'') AND strpos(%1$s, ''-'') <= 1 THEN '
                               'CASE WHEN length(%1$s) <= 18 THEN %1$s::bigint '
                               'WHEN %1$s::numeric BETWEEN -9223372036854775808 AND 9223372036854775807 THEN %1$s::bigint END END', value)
    WHEN 'uuid' THEN format('CASE WHEN %1$s LIKE ''________-____-____-____-____________'' AND translate(%1$s, ''0123456789abcdef'', '''') = ''----'' '
                            'THEN %1$s::uuid END', value)
    WHEN 'text' THEN value END;
COMMENT ON FUNCTION afterdelete.read_value(text, text) IS
  'The expression for the value of a column, from its text in a target; it is NULL for what no such column can have rendered. NULL for kinds that are looked up otherwise.';

-- right() walks over what it cuts off, where substr() and length() walk over all of it, and more than once.
CREATE FUNCTION afterdelete.cut_out(subject text, before text, behind text) RETURNS text LANGUAGE sql IMMUTABLE RETURN
  CASE WHEN before <> '' AND behind <> '' THEN format('left(right(%s, -%s), -%s)', subject, length(before), length(behind))
       WHEN before <> '' THEN format('right(%s, -%s)', subject, length(before))
       WHEN behind <> '' THEN format('left(%s, -%s)', subject, length(behind))
       ELSE subject END;
COMMENT ON FUNCTION afterdelete.cut_out(text, text, text) IS 'The expression for what stands between two texts at the ends of a subject, which is an expression, too.';

CREATE FUNCTION afterdelete.cut_from_segment(subject text, before text, behind text) RETURNS text LANGUAGE sql IMMUTABLE RETURN
  afterdelete.cut_out(format('split_part(%s, ''/'', %s)', subject, cardinality(string_to_array(before, '/'))),
                      substring(before FROM '[^/]*$'), substring(behind FROM '^[^/]*'));
COMMENT ON FUNCTION afterdelete.cut_from_segment(text, text, text) IS 'The same for what has no slash: cut out of the segment in which it stands.';

-- A text is cut out of all of the form: one with a slash, which {column} does not allow, is found and held all the same.
CREATE FUNCTION afterdelete.single_query(w afterdelete.watched, form text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT format('SELECT a.n, t."afterdelete key" AS key, t."afterdelete held" AS held '
                'FROM (SELECT * FROM %s t WHERE t.%I = ANY (ARRAY(SELECT s.value FROM (SELECT %s AS cut FROM unnest($2::text[]) AS u (form) OFFSET 0) c CROSS JOIN LATERAL (%s) AS s (value)))) t '
                'JOIN unnest($1::integer[], $2::text[]) AS a (n, form) ON a.form = t."afterdelete form"',
                afterdelete.holding_rows(w, form), min(c.name),
                CASE WHEN min(c.kind) = 'text' THEN afterdelete.cut_out('u.form', min(p.piece[1]), min(p.piece[2]))
                     ELSE afterdelete.cut_from_segment('u.form', min(p.piece[1]), min(p.piece[2])) END,
                format(CASE WHEN form LIKE E'file://%\x02' AND bool_or(c.slashes) THEN 'SELECT %1$s UNION ALL SELECT %1$s || ''/''' ELSE 'SELECT %1$s' END,
                       afterdelete.read_value(min(c.kind), 'c.cut')))
    FROM regexp_matches(form, E'^([^\x01-\x03]*)[\x01\x03][0-9]+\x02([^\x01-\x03]*)$') AS p (piece)
   CROSS JOIN afterdelete.marked_columns(w, form) c
  HAVING count(*) = 1 AND min(c.kind) IN ('integer', 'uuid', 'text')
$$;
COMMENT ON FUNCTION afterdelete.single_query(afterdelete.watched, text) IS
  'The query for the rows that hold exactly some targets ($1 their numbers, $2 their forms), where the template has one placeholder; NULL where it has more.';

CREATE FUNCTION afterdelete.segments_query(w afterdelete.watched, form text) RETURNS text LANGUAGE sql STABLE AS $$
  WITH segment AS (
    SELECT p.nth, c.name, afterdelete.cut_out(format('split_part(u.form, ''/'', %s)', p.nth), p.piece[1], p.piece[2]) AS cut,
           CASE WHEN p.piece IS NOT NULL THEN afterdelete.read_value(c.kind, format('c.v%s', p.nth)) END AS value
      FROM (SELECT s.nth, s.segment, regexp_match(s.segment, E'^([^\x01-\x03]*)\x01[0-9]+\x02([^\x01-\x03]*)$') AS piece
              FROM unnest(string_to_array(form, '/')) WITH ORDINALITY AS s (segment, nth) WHERE s.segment ~ E'[\x01\x03]') p
      LEFT JOIN LATERAL afterdelete.marked_columns(w, p.segment) c ON true
  )
  SELECT format('SELECT a.n, t."afterdelete key" AS key, t."afterdelete held" AS held '
                'FROM (SELECT c.n, c.form, %s FROM (SELECT u.n, u.form, %s FROM unnest($1::integer[], $2::text[]) AS u (n, form) OFFSET 0) c OFFSET 0) a '
                'JOIN %s t ON %s AND t."afterdelete form" = a.form',
                string_agg(format('%s AS v%s', s.value, s.nth), ', ' ORDER BY s.nth), string_agg(format('%s AS v%s', s.cut, s.nth), ', ' ORDER BY s.nth),
                afterdelete.holding_rows(w, form), string_agg(format('t.%I = a.v%s', s.name, s.nth), ' AND ' ORDER BY s.nth))
    FROM segment s
  HAVING bool_and(s.value IS NOT NULL)
$$;
COMMENT ON FUNCTION afterdelete.segments_query(afterdelete.watched, text) IS
  'The query for the rows that hold exactly some targets ($1 their numbers, $2 their forms), where no segment of the template has more than one placeholder, none may have slashes, and all are texts, integers or uuids; NULL elsewhere.';

CREATE FUNCTION afterdelete.exact_query(w afterdelete.watched, form text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT coalesce(afterdelete.single_query(w, form), afterdelete.segments_query(w, form), format('SELECT a.n, t."afterdelete key" AS key, t."afterdelete held" AS held '
                'FROM (SELECT u.n, u.form, regexp_match(u.form, %L) AS v FROM unnest($1::integer[], $2::text[]) AS u (n, form) OFFSET 0) a '
                'JOIN %s t ON %s t."afterdelete form" = a.form',
                w.exact_pattern, afterdelete.holding_rows(w, form),
                CASE WHEN afterdelete.is_unambiguous(w, form) THEN afterdelete.lookups(w, form, form LIKE 'file://%') || ' AND ' END))
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
  w.depth := CASE WHEN form NOT LIKE E'%\x03%' THEN cardinality(string_to_array(form, '/')) END;
  w.exact_query := afterdelete.exact_query(w, form);
  w.below_query := afterdelete.below_query(w, form);
  w.scan_query := afterdelete.scan_query(w, form);
  w.prefix_column := (SELECT c.name FROM afterdelete.marked_columns(w, form) c WHERE c.slashes AND afterdelete.is_unambiguous(w, form));
  w.readable := afterdelete.is_unambiguous(w, form);
  w.leading_columns := CASE
    WHEN NOT w.readable THEN '{}'
    WHEN w.prefix_column IS NOT NULL
      THEN ARRAY(SELECT c.name FROM afterdelete.marked_columns(w, substring(form FROM E'^([^\x03]*)\x03')) c WHERE c.kind <> 'enum')
    -- No tree ends behind the last placeholder.
    ELSE ARRAY(SELECT c.name FROM afterdelete.template_stems(form) AS s (stem) CROSS JOIN LATERAL afterdelete.marked_columns(w, s.stem) c WHERE c.place = 1 AND c.kind <> 'enum' LIMIT 1)
  END;
END
$$;
COMMENT ON FUNCTION afterdelete.prepare_guard(afterdelete.watched) IS 'Works out how the guard asks a watch.';
