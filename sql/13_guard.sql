-- Asking who holds: with the indexes that the tables have, all watches in one snapshot.

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
  plainly boolean;
BEGIN
  query := replace(query, E'\x01relation\x02', w.relation::text);
  query := replace(query, E'\x01key\x02', afterdelete.row_key(w.relation, w.columns));
  IF strpos(query, E'\x01limit\x02') = 0 THEN RETURN (query); END IF;
  plainly := coalesce(afterdelete.orders_by_bytes((SELECT a.attcollation FROM pg_attribute a WHERE a.attrelid = w.relation AND a.attname = w.prefix_column)), false);
  query := replace(query, E'\x01limit\x02', CASE WHEN every THEN '' ELSE 'LIMIT 1' END);
  query := replace(query, E'\x01from\x02', CASE WHEN plainly THEN '>=' ELSE 'OPERATOR(pg_catalog.~>=~)' END);
  RETURN replace(query, E'\x01before\x02', CASE WHEN plainly THEN '<' ELSE 'OPERATOR(pg_catalog.~<~)' END);
END
$$;
COMMENT ON FUNCTION afterdelete.fill_query(afterdelete.watched, text, boolean) IS 'A query of the guard as it is asked now. every: all rows, not one a tree.';

CREATE FUNCTION afterdelete.finds_below(w afterdelete.watched) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT w.readable AND (
    w.prefix_column IS NULL AND w.leading_columns = '{}'
    OR EXISTS (
      SELECT FROM pg_catalog.pg_index i
        JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[0]
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
       WHERE i.indrelid = w.relation AND i.indisvalid AND (i.indpred IS NULL OR afterdelete.shown_predicate(i.indexrelid) = w.condition)
         AND (a.attname = ANY (w.leading_columns)
              OR a.attname = w.prefix_column AND (o.opcname LIKE '%\_pattern\_ops' OR o.opcmethod = (SELECT m.oid FROM pg_catalog.pg_am m WHERE m.amname = 'btree')
                                                  AND afterdelete.orders_by_bytes(i.indcollation[0])))))
$$;
COMMENT ON FUNCTION afterdelete.finds_below(afterdelete.watched) IS 'Whether an index finds rows that hold something below a tree.';

CREATE FUNCTION afterdelete.may_concern(prefix text, beginning text) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN
  starts_with(prefix, beginning) OR starts_with(beginning, prefix);
COMMENT ON FUNCTION afterdelete.may_concern(text, text) IS 'Whether something that begins with one text may be the same as, above or below something that begins with the other.';

CREATE FUNCTION afterdelete.common_beginning(texts text[]) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  first text;
  last text;
  common integer := 0;
  too_many integer;
  middle integer;
BEGIN
  SELECT min(t COLLATE "C"), max(t COLLATE "C") INTO first, last FROM unnest(texts) AS t;
  IF first = last THEN RETURN first; END IF;
  too_many := length(first) + 1;
  WHILE too_many - common > 1 LOOP
    middle := (common + too_many) / 2;
    IF starts_with(last, left(first, middle)) THEN common := middle; ELSE too_many := middle; END IF;
  END LOOP;
  RETURN left(first, common);
END
$$;
COMMENT ON FUNCTION afterdelete.common_beginning(text[]) IS 'With what all of some texts begin.';

-- Planning the query takes five times as long as running it for one target: so each watch has a function in which it stands as
-- it was when the watch was declared, whose plan PostgreSQL keeps. Where names have changed since, it is asked as things are now.
CREATE FUNCTION afterdelete.make_holds_function(w afterdelete.watched) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('CREATE OR REPLACE FUNCTION afterdelete.%I(numbers integer[], forms text[]) RETURNS TABLE (n integer, key jsonb, held text) LANGUAGE plpgsql STABLE AS %L',
                 'holds_' || w.id, format(E'#variable_conflict use_column\nBEGIN\n  RETURN QUERY %s;\nEND\n', afterdelete.fill_query(w, w.exact_query, false)));
  EXECUTE format('REVOKE EXECUTE ON FUNCTION afterdelete.%I(integer[], text[]) FROM PUBLIC', 'holds_' || w.id);
  EXECUTE format('COMMENT ON FUNCTION afterdelete.%I(integer[], text[]) IS %L', 'holds_' || w.id,
                 format('The rows of %s that hold exactly some targets: their numbers, and their forms.', w.relation));
END
$$;
COMMENT ON FUNCTION afterdelete.make_holds_function(afterdelete.watched) IS 'Makes the function by which the guard asks a watch.';

CREATE FUNCTION afterdelete.ask_exactly(w afterdelete.watched, numbers integer[], forms text[]) RETURNS TABLE (n integer, key jsonb, held text)
LANGUAGE plpgsql STABLE AS $$
BEGIN
  IF to_regclass(w.relation_name) = w.relation AND to_regprocedure(format('afterdelete.holds_%s(integer[], text[])', w.id)) IS NOT NULL THEN
    BEGIN
      RETURN QUERY EXECUTE format('SELECT * FROM afterdelete.holds_%s($1, $2)', w.id) USING numbers, forms;
      RETURN;
    EXCEPTION WHEN OTHERS THEN
      -- The key has other columns by now, perhaps; if it is something else, it goes wrong again below.
    END;
  END IF;
  RETURN QUERY EXECUTE afterdelete.fill_query(w, w.exact_query, false) USING numbers, forms;
END
$$;
COMMENT ON FUNCTION afterdelete.ask_exactly(afterdelete.watched, integer[], text[]) IS 'The rows that hold exactly some targets: their numbers, and their forms.';

-- Where no index helps, a few trees are looked up one by one, and many in one pass over the table. (The costs of pages are those of
-- tables in memory: with the defaults PostgreSQL would rather read 100,000 rows than look 1,000 of them up, which takes 18 ms instead of 1.)
-- STABLE: all its queries see one moment. A hold that moves from one table to another in one transaction stands in one of
-- them at every moment, but not in one of them at two. forms: what is asked about, and stems: what of it may be a tree, in the
-- guard's form; beginning: with what all forms begin. locked: the watches whose tables are; others are not asked. reasons: why.
CREATE FUNCTION afterdelete.ask_at_one_moment(forms text[], stems text[], beginning text, every boolean, locked bigint[], reasons jsonb)
RETURNS TABLE (n integer, exact boolean, watch bigint, relation regclass, key jsonb, held text, problem text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET row_security = off SET lock_timeout = '500ms'
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_mergejoin = off SET jit = off
SET random_page_cost = 0.1 SET seq_page_cost = 0.1 AS $$
DECLARE
  w afterdelete.watched;
  numbers integer[];
  asked text[];
BEGIN
  FOR w IN SELECT * FROM afterdelete.watched o WHERE afterdelete.may_concern(o.prefix, beginning) ORDER BY o.id LOOP
    BEGIN
      IF NOT w.id = ANY (locked) THEN RAISE EXCEPTION '%', coalesce(reasons ->> w.id::text, 'it was declared just now'); END IF;
      IF starts_with(beginning, w.prefix) THEN
        numbers := ARRAY(SELECT generate_series(1, cardinality(forms)));
        asked := forms;
      ELSE
        SELECT array_agg(u.n), array_agg(u.form) INTO numbers, asked
          FROM unnest(forms) WITH ORDINALITY AS u (form, n) WHERE starts_with(u.form, w.prefix);
      END IF;
      IF numbers IS NOT NULL THEN
        RETURN QUERY SELECT q.n, true, w.id, w.relation, q.key, q.held, NULL::text FROM afterdelete.ask_exactly(w, numbers, asked) q;
      END IF;
      SELECT array_agg(u.n), array_agg(u.stem) INTO numbers, asked
        FROM unnest(stems) WITH ORDINALITY AS u (stem, n)
       -- What is as deep as all that the template could render is above none of it; that is cheaper to see.
       WHERE CASE WHEN w.depth IS NULL OR split_part(u.stem, '/', w.depth) = '' THEN u.stem ~ w.above_pattern END;
      IF numbers IS NOT NULL THEN
        RETURN QUERY EXECUTE 'SELECT q.n, false, $3, $4, q.key, q.held, NULL::text FROM ('
            || afterdelete.fill_query(w, CASE WHEN every OR cardinality(numbers) <= 8 OR afterdelete.finds_below(w)
                                              THEN w.below_query ELSE w.scan_query END, every) || ') q'
          USING numbers, asked, w.id, w.relation;
      END IF;
    EXCEPTION WHEN OTHERS THEN
      RETURN QUERY
        SELECT u.n::integer, false, w.id, w.relation, NULL::jsonb, NULL::text,
               format('the watch %L on %s cannot be asked: %s. Until it can, it blocks what it could hold. %sTo remove it: %s',
                      w.template, w.relation_name, SQLERRM,
                      CASE WHEN EXISTS (SELECT FROM pg_class c WHERE c.oid = w.relation)
                           THEN format('To declare it anew (and, if its template changes, remove the old one in the same transaction): %s. ', afterdelete.declaration(w)) END,
                      afterdelete.removal(w))
          FROM unnest(forms, stems) WITH ORDINALITY AS u (form, stem, n)
         WHERE u.form ~ w.exact_pattern OR u.stem ~ w.above_pattern;
    END;
  END LOOP;
END
$$;
COMMENT ON FUNCTION afterdelete.ask_at_one_moment(text[], text[], text, boolean, bigint[], jsonb) IS 'What ask_holders asks, once it has locked the tables.';

-- The locks come before the snapshot: whoever waits for a TRUNCATE with a snapshot from before it sees no rows at all, neither
-- those that were there nor where they went. In REPEATABLE READ the snapshot is older: there the guard would be blind.
--
-- Whoever holds some locks and waits for others can be a link in a deadlock, and the victim might be the other: a migration. So
-- it waits once, for less than the time after which PostgreSQL looks for deadlocks (1 s), and for no further table at all.
CREATE FUNCTION afterdelete.ask_holders(targets text[], every boolean DEFAULT false)
RETURNS TABLE (n integer, exact boolean, watch bigint, relation regclass, key jsonb, held text, problem text)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
  w record;
  locked bigint[] := '{}';
  reasons jsonb := '{}';
  waited boolean := false;
  forms text[] := ARRAY(SELECT afterdelete.guarded_form(t.target) FROM unnest(targets) AS t (target));
  beginning text := afterdelete.common_beginning(forms);
BEGIN
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'the holders can be asked in READ COMMITTED only, not in %', upper(current_setting('transaction_isolation'))
      USING ERRCODE = 'AD002', HINT = 'An older snapshot would not see what holds a target now. Is default_transaction_isolation set for the role or the database?';
  END IF;
  FOR w IN SELECT o.id, o.relation FROM afterdelete.watched o WHERE afterdelete.may_concern(o.prefix, beginning) ORDER BY o.id LOOP
    IF NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = w.relation) THEN
      reasons := reasons || jsonb_build_object(w.id, 'the table is gone');
      CONTINUE;
    END IF;
    BEGIN
      EXECUTE format('LOCK TABLE %s IN ACCESS SHARE MODE%s', w.relation, CASE WHEN waited THEN ' NOWAIT' END);
      locked := locked || w.id;
    EXCEPTION WHEN OTHERS THEN
      waited := true;
      reasons := reasons || jsonb_build_object(w.id, CASE WHEN SQLSTATE = '55P03' THEN format('%s is locked just now (%s)', w.relation, SQLERRM) ELSE SQLERRM END);
    END;
  END LOOP;
  RETURN QUERY SELECT * FROM afterdelete.ask_at_one_moment(forms,
    ARRAY(SELECT CASE WHEN left(f.form, 7) = 'file://' THEN f.form WHEN right(f.form, 1) = '/' THEN left(f.form, -1) END FROM unnest(forms) AS f (form)),
    beginning, every, locked, reasons);
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
