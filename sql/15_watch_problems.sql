-- What `afterdelete check` says of watches and guards.

-- Whether the guard finds rows by an index on a column of the template, as the planner sees it: one on a column of the condition
-- leads to all rows that hold. names: those columns; NULL: any index will do.
CREATE FUNCTION afterdelete.reads_whole_table(w afterdelete.watched, query text, names text[]) RETURNS boolean LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_mergejoin = off SET enable_hashjoin = off SET row_security = off AS $$
DECLARE
  plan text;
BEGIN
  EXECUTE 'EXPLAIN (FORMAT JSON) ' || afterdelete.fill_query(w, query, false) INTO plan USING '{1}'::integer[], ARRAY[w.prefix || 'x'];
  RETURN plan LIKE '%"Seq Scan"%' OR plan NOT LIKE '%"Index Cond"%'
      OR NOT coalesce((SELECT bool_or(plan ~ ('"Index Cond": "(?:[^"\\]|\\.)*' || afterdelete.escape_pattern(replace(quote_ident(c), '"', '\"')))) FROM unnest(names) AS c), true);
END
$$;
COMMENT ON FUNCTION afterdelete.reads_whole_table(afterdelete.watched, text, text[]) IS 'Whether the guard would read the whole table to ask a watch.';

CREATE FUNCTION afterdelete.index_advice(w afterdelete.watched) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  form text := afterdelete.guarded_template(w.template);
  locking text := CASE WHEN (SELECT c.relkind FROM pg_class c WHERE c.oid = w.relation) = 'p' THEN '' ELSE 'CONCURRENTLY ' END;
  names text[] := ARRAY(SELECT c.name FROM afterdelete.marked_columns(w, form) c WHERE c.kind <> 'enum' ORDER BY c.place);
  bare afterdelete.watched := w;
BEGIN
  IF NOT w.readable THEN
    IF NOT afterdelete.reads_whole_table(w, w.exact_query, NULL) THEN RETURN NULL; END IF;
    -- Values that cannot be read back: what is rendered is looked up itself.
    IF EXISTS (SELECT FROM afterdelete.marked_columns(w, form) c WHERE c.kind = 'enum') THEN
      RETURN 'put a character between the placeholders that neither value can have, or use text instead of an enum';
    END IF;
    RETURN format('CREATE INDEX %sON %s ((%s))', locking, w.relation, afterdelete.form_rendering(w, form, ''));
  END IF;
  -- Without the condition, too, because the planner may prefer an index on that while the table is small.
  bare.condition := 'true';
  IF names = '{}' OR afterdelete.finds_below(w) AND (NOT afterdelete.reads_whole_table(w, w.exact_query, names)
                                                     OR NOT afterdelete.reads_whole_table(bare, afterdelete.exact_query(bare, form), names)) THEN
    RETURN NULL;
  END IF;
  -- In the order of the template, so that it serves trees above, too.
  RETURN format('CREATE INDEX %sON %s (%s)', locking, w.relation,
                (SELECT string_agg(quote_ident(c.name) || CASE WHEN c.name = w.prefix_column THEN ' text_pattern_ops' ELSE '' END, ', ' ORDER BY c.n)
                   FROM unnest(names) WITH ORDINALITY AS c (name, n)
                  WHERE c.n <= coalesce((SELECT p.n FROM unnest(names) WITH ORDINALITY AS p (name, n) WHERE p.name = w.prefix_column LIMIT 1), c.n)));
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
      remedy := format('declare it anew for the table as it is (it was: %s), and if its template changes, remove the old one in the same transaction: %s', remedy, afterdelete.removal(w));
      RETURN NEXT;
      CONTINUE;
    END IF;
    IF w.each_row <> afterdelete.needs_row_triggers(w.relation) THEN
      problem := 'the table became, or is no longer, a partition or an inheriting table since it was declared: some statements are not captured';
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
