-- Guards of a user's own, and what all guards together say.

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

CREATE FUNCTION afterdelete.guard_answer(name text, blocks boolean, fault text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN fault IS NOT NULL THEN format('the guard %L cannot be asked: %s. Mend the function, or remove the guard: SELECT afterdelete.unguard(%L)', name, fault, name)
              WHEN blocks IS NULL THEN format('the guard %L returned NULL, which blocks: it should return true or false', name)
              ELSE format('the guard %L says that it is in use', name) END
$$;
COMMENT ON FUNCTION afterdelete.guard_answer(text, boolean, text) IS 'What a guard that blocks has said, in words.';

CREATE FUNCTION afterdelete.ask_guards(targets text[], OUT n integer, OUT reason text) RETURNS SETOF record
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off SET lock_timeout = '500ms' AS $$
DECLARE
  g afterdelete.custom_guard;
  fault text;
  blocks boolean;
  target text;
BEGIN
  FOR g IN SELECT * FROM afterdelete.custom_guard o ORDER BY o.name LOOP
    fault := afterdelete.guard_fault(g.fn);
    IF fault IS NOT NULL THEN
      RETURN QUERY SELECT u.n::integer, afterdelete.guard_answer(g.name, NULL, fault)
                     FROM unnest(targets) WITH ORDINALITY AS u (target, n);
      CONTINUE;
    END IF;
    BEGIN
      RETURN QUERY EXECUTE format('SELECT u.n::integer, afterdelete.guard_answer($2, a.blocks, NULL) FROM unnest($1) WITH ORDINALITY AS u (target, n) '
                                  'CROSS JOIN LATERAL (SELECT %s(u.target) OFFSET 0) AS a (blocks) WHERE a.blocks IS NOT FALSE', g.fn::regprocedure::regproc)
        USING targets, g.name;
    EXCEPTION WHEN OTHERS THEN
      -- One target may be at fault, and not the others: asked one by one.
      FOR n, target IN SELECT u.n, u.target FROM unnest(targets) WITH ORDINALITY AS u (target, n) LOOP
        BEGIN
          EXECUTE format('SELECT %s($1)', g.fn::regprocedure::regproc) INTO blocks USING target;
          reason := afterdelete.guard_answer(g.name, blocks, NULL);
        EXCEPTION WHEN OTHERS THEN
          blocks := true;
          reason := afterdelete.guard_answer(g.name, NULL, SQLERRM);
        END;
        IF blocks IS NOT FALSE THEN RETURN NEXT; END IF;
      END LOOP;
    END;
  END LOOP;
END
$$;
COMMENT ON FUNCTION afterdelete.ask_guards(text[]) IS 'Which targets the guards declared by afterdelete.guard() block, and why. One that gives NULL blocks, too.';

-- claim: that of the rows which are asked about. Where connections lead to two servers, or one has just taken over, this one may know
-- nothing of what holds them there, or that they came back to life here.
CREATE FUNCTION afterdelete.verdicts(targets text[], claim bigint DEFAULT NULL, OUT n integer, OUT verdict text, OUT reason text) RETURNS SETOF record
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF claim >> 32 <> afterdelete.server() THEN
    RAISE EXCEPTION 'claim % was given by another server, or before this one was restarted: what it brought is claimed anew', claim
      USING ERRCODE = 'AD003';
  END IF;
  -- Most databases have no guards of their own, and some no watches: then there is nothing to ask.
  IF NOT EXISTS (SELECT FROM afterdelete.watched) AND NOT EXISTS (SELECT FROM afterdelete.custom_guard)
     AND current_setting('transaction_isolation') = 'read committed' THEN RETURN; END IF;
  RETURN QUERY
  SELECT DISTINCT ON (v.n) v.n, v.verdict, v.reason
    FROM (SELECT h.n, CASE WHEN h.exact THEN 'kept' ELSE 'blocked' END, CASE WHEN h.exact THEN 1 WHEN h.problem IS NULL THEN 2 ELSE 3 END,
                 coalesce(h.problem, CASE WHEN h.exact THEN format('%s %s holds it', h.relation, h.key)
                                          ELSE format('%s %s holds %s below it', h.relation, h.key, h.held) END)
            FROM afterdelete.ask_holders(targets) h
          UNION ALL
          SELECT g.n, 'blocked', 4, g.reason FROM afterdelete.ask_guards(targets) g) AS v (n, verdict, rank, reason)
   ORDER BY v.n, v.rank;
END
$$;
COMMENT ON FUNCTION afterdelete.verdicts(text[], bigint) IS
  'What the guard says of targets, by their number in the array: kept (a live row holds exactly this) or blocked, and why; nothing: free to go. Raises AD003 when another server has given their claim.';
