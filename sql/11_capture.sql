-- Capture: what a watch writes into the outbox when a hold ends. Each watch has a trigger function of its own with static
-- SQL, written when it is declared: five times as fast as going through jsonb, and an unknown column is an error there and
-- not in the application's DELETE.
--
-- A trigger must never make the application's statement fail because of a value in a row or a later change of the table. So
-- the function looks first whether the table is still as it was declared, tests what it renders before it writes it, and
-- buries what is wrong as a dead row that explains itself. Serialisation failures, deadlocks, cancellations and lack of
-- resources are never caught: then the statement fails, and row and file stay together.

-- Values of types that somebody made are written by the type's own output function: a cast to text or json may be a function of
-- the type's owner, and would run with the rights of whoever asks.
CREATE FUNCTION afterdelete.row_key(relation oid, otherwise text[] DEFAULT NULL) RETURNS text LANGUAGE sql STABLE AS $$
  WITH key (columns) AS (
    SELECT i.indkey FROM pg_catalog.pg_index i WHERE i.indrelid = relation AND i.indisprimary
  ), shown AS (
    SELECT a.attname, a.attnum,
           CASE WHEN a.atttypid < 16384 OR afterdelete.placeholder_kind(a.atttypid) <> 'enum' THEN format('t.%I', a.attname)
                ELSE format('CASE WHEN t.%1$I IS NOT NULL THEN concat(t.%1$I) END', a.attname) END AS value,
           EXISTS (SELECT FROM key) OR a.attlen > 0 AS short
      FROM pg_catalog.pg_attribute a
     WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
       AND CASE WHEN EXISTS (SELECT FROM key) THEN a.attnum = ANY ((SELECT k.columns FROM key k)::smallint[]) ELSE otherwise IS NULL OR a.attname = ANY (otherwise) END
     -- A function takes 100 arguments.
     ORDER BY a.attnum LIMIT 40
  )
  SELECT format('jsonb_build_object(%s)',
                string_agg(format(CASE WHEN s.short THEN '%L, %s' ELSE '%L, CASE WHEN pg_column_size(t.%3$I) > 2000 THEN to_jsonb(''(too long)''::text) ELSE to_jsonb(%2$s) END' END,
                                  s.attname, s.value, s.attname), ', ' ORDER BY s.attnum))
    FROM shown s
$$;
COMMENT ON FUNCTION afterdelete.row_key(oid, text[]) IS 'The expression over t for a row''s primary key as JSON; for the columns named otherwise (all) where its table has none.';

CREATE FUNCTION afterdelete.keys_query(relation oid, source text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT format('SELECT string_agg(left(k.key, 500), '', '') || CASE WHEN max(k.total) > 20 THEN format('' and %%s more'', max(k.total) - 20) ELSE '''' END '
                'FROM (SELECT %s::text AS key, count(*) OVER () AS total FROM %s t LIMIT 20) k', afterdelete.row_key(keys_query.relation), source)
$$;
COMMENT ON FUNCTION afterdelete.keys_query(oid, text) IS 'The query for the keys of the rows of a source, in words: 20 of them, and how many more there are. NULL: there is no row.';

CREATE FUNCTION afterdelete.altered_columns(watch bigint, relation oid) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT string_agg(CASE WHEN a.attname IS NULL THEN format('the column %I is not there any more (renamed or dropped?)', c.name)
                         ELSE format('the column %I was %s and is %s', c.name, c.type, format_type(a.atttypid, NULL)) END, '; ' ORDER BY c.name)
    FROM afterdelete.watched w
   CROSS JOIN unnest(w.columns, w.types) AS c (name, type)
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = altered_columns.relation AND a.attname = c.name AND NOT a.attisdropped
   WHERE w.id = watch AND (a.atttypid IS NULL OR a.atttypid IS DISTINCT FROM to_regtype(c.type)::oid)
$$;
COMMENT ON FUNCTION afterdelete.altered_columns(bigint, oid) IS 'What of a watch''s columns is not as it was declared; NULL when all is.';

CREATE FUNCTION afterdelete.declaration(w afterdelete.watched) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT format('SELECT afterdelete.watch(%L, %L%s%s%s)',
                coalesce((SELECT c.oid::regclass::text FROM pg_catalog.pg_class c WHERE c.oid = w.relation), w.relation_name), w.template,
                CASE WHEN w.condition <> 'true' THEN format(', condition => %L', w.condition) END,
                CASE WHEN w.delay <> '0' THEN format(', delay => %L', w.delay) END,
                CASE WHEN w.prune_parents <> 0 THEN format(', prune_parents => %s', w.prune_parents) END)
$$;
COMMENT ON FUNCTION afterdelete.declaration(afterdelete.watched) IS 'The statement that declares a watch anew.';

CREATE FUNCTION afterdelete.removal(w afterdelete.watched) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT format('SELECT afterdelete.unwatch(%s, %L)',
                coalesce((SELECT quote_literal(c.oid::regclass::text) FROM pg_catalog.pg_class c WHERE c.oid = w.relation), w.relation::oid::text), w.template)
$$;
COMMENT ON FUNCTION afterdelete.removal(afterdelete.watched) IS 'The statement that removes a watch, also when its table is gone.';

CREATE FUNCTION afterdelete.shown_template(template text) RETURNS text LANGUAGE sql IMMUTABLE RETURN
  regexp_replace(template, '^(file://(\{[^+}]*\})?)\{\+', '\1/{+');
COMMENT ON FUNCTION afterdelete.shown_template(text) IS 'A template as it stands for a target that nobody knows: with the slash that its values begin with, so that its store is right.';

CREATE FUNCTION afterdelete.capture_failed(watch bigint, operation text, relation oid, why text, keys text, remedy text DEFAULT NULL) RETURNS void LANGUAGE sql AS $$
  INSERT INTO afterdelete.dead_file_cleanup (target, prune_parents, source, last_error, final)
  SELECT afterdelete.shown_template(w.template), w.prune_parents, operation || ' on ' || capture_failed.relation::regclass,
         format('%s on %s: the watch %L could not tell what its rows held, because %s. Nothing was touched: what they held is still stored. '
                  'Remedy: %s, delete by hand what these rows held, and afterdelete.discard() this. Rows: %s',
                  operation, capture_failed.relation::regclass, w.template, left(why, 2000),
                  coalesce(remedy, format('declare the watch anew for the table as it is (it was: %s; if its template changes, remove the old one in the same transaction: %s)',
                                          afterdelete.declaration(w), afterdelete.removal(w))),
                  keys), true
    FROM afterdelete.watched w WHERE w.id = watch
$$;
COMMENT ON FUNCTION afterdelete.capture_failed(bigint, text, oid, text, text, text) IS 'Writes one dead row that says which rows'' holds ended without anybody knowing what they held, and why.';

CREATE FUNCTION afterdelete.one_line(words text) RETURNS text LANGUAGE sql IMMUTABLE RETURN translate(words, E'\n\r', '  ');
COMMENT ON FUNCTION afterdelete.one_line(text) IS 'A text without line breaks, for a comment.';

CREATE FUNCTION afterdelete.rendering_fault(template text, target text, fields jsonb) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT format('%L rendered to something that is no target: %s. Nothing was touched. The row''s values: %s', template,
                coalesce((SELECT string_agg(f.fault, '; ' ORDER BY p.n)
                            FROM afterdelete.template_parts(template) p
                           CROSS JOIN LATERAL (SELECT CASE
                             WHEN fields ->> p.name = '' THEN format('{%s} is empty', p.name)
                             WHEN NOT p.slashes AND strpos(fields ->> p.name, '/') > 0
                               THEN format('{%s} has a slash, and only {+%s} may have one', p.name, p.name)
                             WHEN p.rooted AND left(fields ->> p.name, 1) <> '/'
                               THEN format('{+%s} does not begin with a slash, so that a part of it would be taken for a host', p.name)
                           END) AS f (fault)
                           WHERE f.fault IS NOT NULL),
                         'it breaks the rule ' || afterdelete.broken_rule(target)),
                left(fields::text, 1000))
$$;
COMMENT ON FUNCTION afterdelete.rendering_fault(text, text, jsonb) IS 'Why a row''s values make no target, in words.';

CREATE FUNCTION afterdelete.rendering(w afterdelete.watched) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT string_agg(concat_ws(' || ', CASE WHEN p.literal <> '' THEN quote_literal(p.literal) || '::text' END,
                                      CASE WHEN p.name IS NOT NULL THEN afterdelete.column_text(format('t.%I', p.name), a.atttypid) END),
                    ' || ' ORDER BY p.n)
    FROM afterdelete.template_parts(w.template) p
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = w.relation AND a.attname = p.name
   WHERE p.literal <> '' OR p.name IS NOT NULL
$$;
COMMENT ON FUNCTION afterdelete.rendering(afterdelete.watched) IS 'The expression over the columns of t that renders a watch''s template.';

-- Values of integers, uuids and booleans always make a target; those of texts, enums and numerics must be looked at. They go by
-- v1, v2 and so on, because a name put together of theirs might be too long.
CREATE FUNCTION afterdelete.doubtful_columns(w afterdelete.watched, OUT name text, OUT value text, OUT alias text, OUT fault text) RETURNS SETOF record LANGUAGE sql STABLE AS $$
  SELECT d.name, d.value, d.alias,
         concat_ws(' OR ', format('e.%s = %L', d.alias, ''),
                   CASE WHEN NOT d.slashes THEN format('strpos(e.%s, %L) > 0', d.alias, '/') END,
                   CASE WHEN d.rooted THEN format('left(e.%s, 1) <> %L', d.alias, '/') END)
    FROM (SELECT p.name, afterdelete.column_text(format('t.%I', p.name), a.atttypid) AS value, 'v' || row_number() OVER (ORDER BY p.name) AS alias,
                 bool_and(p.slashes) AS slashes, bool_or(p.rooted) AS rooted
            FROM afterdelete.template_parts(w.template) p
            JOIN pg_catalog.pg_attribute a ON a.attrelid = w.relation AND a.attname = p.name
           WHERE afterdelete.placeholder_kind(a.atttypid) IN ('text', 'enum', 'numeric')
           GROUP BY p.name, a.atttypid) d
$$;
COMMENT ON FUNCTION afterdelete.doubtful_columns(afterdelete.watched) IS 'The placeholders whose values may make no target: their value over t, its alias, and the expression over e that tells.';

CREATE FUNCTION afterdelete.held_by(w afterdelete.watched, source text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT format('SELECT %s AS target%s FROM %s t WHERE (%s)', afterdelete.rendering(w),
                string_agg(format(', %s AS %s', d.value, d.alias), '' ORDER BY d.name), source, w.condition)
    FROM afterdelete.doubtful_columns(w) d
$$;
COMMENT ON FUNCTION afterdelete.held_by(afterdelete.watched, text) IS 'The query for what the rows of a source hold: target, and the values that may make none.';

-- What of the ended holds is good goes into pending, the rest is buried. OFFSET 0: each row is rendered once.
CREATE FUNCTION afterdelete.capture_insert(w afterdelete.watched, ended text, source text, few_faults boolean DEFAULT false) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
  -- What would be read as another host stands on record under the template.
  shown text := (SELECT format('CASE WHEN left(e.%s, 1) = %L THEN e.target ELSE %L END', d.alias, '/', afterdelete.shown_template(w.template))
                   FROM afterdelete.template_parts(w.template) p JOIN afterdelete.doubtful_columns(w) d USING (name) WHERE p.rooted);
  faulty text := (SELECT string_agg(d.fault, ' OR ' ORDER BY d.name) FROM afterdelete.doubtful_columns(w) d);
  fields text := (SELECT format('jsonb_object(ARRAY[%s], ARRAY[%s])', string_agg(quote_literal(d.name), ', ' ORDER BY d.name), string_agg('e.' || d.alias, ', ' ORDER BY d.name)) FROM afterdelete.doubtful_columns(w) d);
  -- Its scheme stands in the template.
  rules text := (SELECT string_agg(r.expression, ' AND ' ORDER BY r.name) FROM afterdelete.target_rules('e.target') r WHERE r.name <> 'target_has_a_scheme');
  pending text := format('INSERT INTO afterdelete.pending_file_cleanup (target, run_at, prune_parents, source) SELECT e.target, now()%s, %s, %L',
                         CASE WHEN w.delay <> '0' THEN format(' + %L::interval', w.delay) END, w.prune_parents, source);
BEGIN
  IF faulty IS NULL THEN RETURN format('%s FROM (%s) e WHERE e.target IS NOT NULL', pending, ended); END IF;
  IF few_faults THEN
    -- One pass for what is good; a second one only if that is not all, for NULLs, the condition, or faults. Many rows at once
    -- are written in the hope that all make targets, as the domain will say anyway: testing them before took a quarter longer.
    RETURN format('total := (SELECT count(*) FROM gone);
        written := NULL;
        IF total > 100 THEN
          BEGIN
            %1$s FROM (%2$s OFFSET 0) e WHERE e.target IS NOT NULL AND NOT (%3$s);
            GET DIAGNOSTICS written = ROW_COUNT;
          EXCEPTION WHEN check_violation THEN
            written := NULL;
          END;
        END IF;
        IF written IS NULL THEN
          %1$s FROM (%2$s OFFSET 0) e WHERE e.target IS NOT NULL AND NOT (%3$s) AND %4$s;
          GET DIAGNOSTICS written = ROW_COUNT;
        END IF;
        IF written < total THEN
          INSERT INTO afterdelete.dead_file_cleanup (target, prune_parents, source, last_error, final)
          SELECT %5$s, %6$s, %7$L, afterdelete.rendering_fault(%8$L, e.target, %9$s), true
            FROM (%2$s OFFSET 0) e WHERE e.target IS NOT NULL AND (%3$s OR NOT (%4$s));
        END IF',
      pending, ended, faulty, rules, coalesce(shown, 'e.target'), w.prune_parents, source, w.template, fields);
  END IF;
  RETURN format('WITH ended AS MATERIALIZED (
        SELECT e.*, %s OR NOT (%s) AS bad FROM (%s OFFSET 0) e WHERE e.target IS NOT NULL
      ), buried AS (
        INSERT INTO afterdelete.dead_file_cleanup (target, prune_parents, source, last_error, final)
        SELECT %s, %s, %L, afterdelete.rendering_fault(%L, e.target, %s), true FROM ended e WHERE e.bad
      )
      %s FROM ended e WHERE NOT e.bad',
    faulty, rules, ended, coalesce(shown, 'e.target'), w.prune_parents, source, w.template, fields, pending);
END
$$;
COMMENT ON FUNCTION afterdelete.capture_insert(afterdelete.watched, text, text, boolean) IS 'The statement that writes cleanups for what a query says was held. few_faults: in PL/pgSQL, for rows of gone, most of which held a target.';

CREATE FUNCTION afterdelete.is_applications_error(state text) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN
  state ~ '^(25|40|53|54|55|57|58|XX)';
COMMENT ON FUNCTION afterdelete.is_applications_error(text) IS
  'Whether an error is for the application to see: transaction state, serialisation and deadlocks, resources, limits, locks, cancellation, '
  'system and internal errors (PostgreSQL documentation, appendix A).';

CREATE FUNCTION afterdelete.belongs_to_watch(watch bigint, relation oid) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
  watched oid := (SELECT w.relation FROM afterdelete.watched w WHERE w.id = watch);
BEGIN
  IF watched IS NULL AND current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'could not serialize access: a watch of % was declared after the snapshot of this transaction', belongs_to_watch.relation::regclass
      USING ERRCODE = 'serialization_failure', HINT = 'Run the transaction again.';
  END IF;
  -- Not NULL, which would be neither yes nor no: for a watch that is gone it is no.
  RETURN coalesce(belongs_to_watch.relation IN (SELECT afterdelete.relation_tree(watched)), false);
END
$$;
COMMENT ON FUNCTION afterdelete.belongs_to_watch(bigint, oid) IS 'Whether a table is the one that is watched, or a partition or an inheriting table of it.';

-- The text of a watch's trigger function. In it, gone are the rows whose hold may have ended, and stay what became of them by
-- an UPDATE. careful: the condition may raise.
CREATE FUNCTION afterdelete.capture_code(w afterdelete.watched, careful boolean) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
  gone text := 'gone';
  stay text := 'stay';
  keys text := 'EXECUTE afterdelete.keys_query(TG_RELID, ''gone'') INTO keys';
  leaving text := '';
  body text;
  guarded text;
BEGIN
  IF w.each_row THEN
    SELECT format('(SELECT %s)', string_agg(format('OLD.%1$I AS %1$I', c), ', ')), format('(SELECT %s)', string_agg(format('NEW.%1$I AS %1$I', c), ', '))
      INTO gone, stay FROM unnest(w.columns) c;
    keys := 'EXECUTE afterdelete.keys_query(TG_RELID, ''(SELECT ($1).*)'') INTO keys USING OLD';
    -- Byte by byte: equal under a collation is not the same path.
    leaving := (SELECT format('IF TG_OP = ''UPDATE'' AND record_image_eq(ROW(%s), ROW(%s)) THEN RETURN NULL; END IF;',
                              string_agg(format('OLD.%I', c), ', '), string_agg(format('NEW.%I', c), ', ')) FROM unnest(w.columns) c);
  END IF;

  body := format($sql$
      IF TG_OP = 'DELETE' THEN
        %s;
      ELSE
        %s;
      END IF;
      RETURN NULL;$sql$,
    afterdelete.capture_insert(w, afterdelete.held_by(w, gone), 'DELETE on ' || w.relation_name, NOT w.each_row),
    -- What is held before and after is taken off, so that paths that are swapped write nothing.
    afterdelete.capture_insert(w, format('SELECT * FROM (%s EXCEPT ALL %s) d', afterdelete.held_by(w, gone), afterdelete.held_by(w, stay)),
                               'UPDATE on ' || w.relation_name));
  guarded := format($sql$
    BEGIN%s
    EXCEPTION WHEN OTHERS THEN
      IF afterdelete.is_applications_error(SQLSTATE) THEN RAISE; END IF;
      why := SQLERRM;
    END;$sql$, body);
  -- Catalogs are read with the transaction's snapshot, but tables are as they are now: in a transaction older than the change of
  -- a column, only the error tells. Not for each row: as many subtransactions would be a burden on the whole server.
  body := CASE WHEN careful THEN guarded WHEN w.each_row THEN body
               ELSE format($sql$
    IF current_setting('transaction_isolation') = 'read committed' THEN%s
    ELSE%s
    END IF;$sql$, body, guarded) END;

  RETURN format($sql$
-- Watch %1$s: a row of %2$s holds %3$s while %4$s.
-- Written by afterdelete.watch(): declare it anew instead of editing this.
#variable_conflict use_column
DECLARE
  watched oid;
  total bigint;
  written bigint;
  why text;
  keys text;
BEGIN
  -- Whoever can attach this function to another table must not be able to inject targets.
  watched := (SELECT w.relation FROM afterdelete.watched w WHERE w.id = %1$s);
  IF watched IS NULL OR watched <> TG_RELID AND watched IS DISTINCT FROM pg_partition_root(TG_RELID) THEN
    IF NOT afterdelete.belongs_to_watch(%1$s, TG_RELID) THEN RETURN NULL; END IF;
  END IF;
  IF TG_OP = 'TRUNCATE' THEN
    PERFORM afterdelete.capture_truncate(%1$s, TG_RELID);
    RETURN NULL;
  END IF;
  IF %5$s <> (SELECT count(*) FROM pg_attribute a
       WHERE a.attrelid = TG_RELID AND a.attname = ANY (%6$L) AND (a.attname, a.atttypid) IN (%7$s)) THEN
    why := afterdelete.altered_columns(%1$s, TG_RELID);
  ELSE
    %8$s%9$s
  END IF;
  -- Here comes only what went wrong.
  BEGIN
    %10$s;
    IF keys IS NULL THEN RETURN NULL; END IF;
  EXCEPTION WHEN OTHERS THEN
    IF afterdelete.is_applications_error(SQLSTATE) THEN RAISE; END IF;
    keys := 'unknown';
  END;
  PERFORM afterdelete.capture_failed(%1$s, TG_OP, TG_RELID, why, keys);
  RETURN NULL;
END
$sql$, w.id, afterdelete.one_line(w.relation_name), afterdelete.one_line(w.template), afterdelete.one_line(w.condition), cardinality(w.columns), w.columns,
    -- By number, because the names of types are quoted as a setting says; types that have no fixed number by name.
    (SELECT string_agg(format(CASE WHEN to_regtype(c.type)::oid < 16384 THEN '(%L, %s)' ELSE '(%L, to_regtype(%3$L)::oid)' END, c.name, to_regtype(c.type)::oid, c.type), ', ')
       FROM unnest(w.columns, w.types) AS c (name, type)),
    leaving, body, keys);
END
$$;
COMMENT ON FUNCTION afterdelete.capture_code(afterdelete.watched, boolean) IS 'The text of a watch''s trigger function. careful: its condition may raise, so that errors of data are caught.';

-- TRUNCATE has no transition tables: the rows are read before they go.
CREATE FUNCTION afterdelete.capture_truncate(watch bigint, relation oid) RETURNS void LANGUAGE plpgsql
SET row_security = off AS $$
DECLARE
  w afterdelete.watched;
  member regclass;
  why text;
  keys text;
  blind boolean := false;
BEGIN
  SELECT * INTO w FROM afterdelete.watched o WHERE o.id = watch;
  FOR member IN
    -- With those below that were attached later and have no trigger of their own.
    WITH RECURSIVE covered (oid) AS (
      SELECT capture_truncate.relation
      UNION
      SELECT i.inhrelid FROM covered c JOIN pg_inherits i ON i.inhparent = c.oid AND NOT i.inhdetachpending
       WHERE NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = i.inhrelid AND g.tgname = format('afterdelete_%s_truncate', watch))
    )
    SELECT c.oid FROM covered v JOIN pg_class c ON c.oid = v.oid WHERE c.relkind <> 'p'
  LOOP
    blind := current_setting('transaction_isolation') <> 'read committed';
    BEGIN
      why := afterdelete.altered_columns(watch, member);
      IF why IS NULL THEN
        EXECUTE replace(w.whole_query, E'\x01relation\x02', member::text);
        CONTINUE;
      END IF;
    EXCEPTION WHEN OTHERS THEN
      IF afterdelete.is_applications_error(SQLSTATE) THEN RAISE; END IF;
      why := SQLERRM;
    END;
    BEGIN
      EXECUTE afterdelete.keys_query(member, 'ONLY ' || member) INTO keys;
      CONTINUE WHEN keys IS NULL;
    EXCEPTION WHEN OTHERS THEN
      IF afterdelete.is_applications_error(SQLSTATE) THEN RAISE; END IF;
      keys := 'unknown';
    END;
    PERFORM afterdelete.capture_failed(watch, 'TRUNCATE', member, why, keys);
  END LOOP;
  IF blind THEN
    PERFORM afterdelete.capture_failed(watch, 'TRUNCATE', capture_truncate.relation,
      'in ' || upper(current_setting('transaction_isolation')) || ' it cannot see rows that others committed after this transaction''s '
        || 'snapshot, and TRUNCATE removes those too (its other rows were captured)',
      'those that were committed meanwhile, if there were any', 'run TRUNCATE in READ COMMITTED');
  END IF;
END
$$;
COMMENT ON FUNCTION afterdelete.capture_truncate(bigint, oid) IS 'Writes cleanups for all rows of a table that is about to be truncated.';
