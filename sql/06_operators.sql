-- What people call who look after stuck rows. Each is one transaction of its own or part of the caller's.

CREATE FUNCTION afterdelete.cancel(id bigint, note text DEFAULT NULL) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT afterdelete.end_pending(id, coalesce('cancelled: ' || note, 'cancelled'))
$$;
COMMENT ON FUNCTION afterdelete.cancel(bigint, text) IS
  'Gives up a pending cleanup: the file stays. It goes to done as discarded. False when it is not pending.';

CREATE FUNCTION afterdelete.retry(id bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM afterdelete.dead_file_cleanup d WHERE d.id = retry.id AND d.final) THEN
    RAISE EXCEPTION 'cleanup % cannot be retried: nobody knows what it would have to delete', retry.id
      USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = format('afterdelete.stuck says which rows it was written for. Delete by hand what they held, then SELECT afterdelete.discard(%s).', retry.id);
  END IF;
  -- A dead row starts a new life: it is first due now, or every alert on old rows would fire for it.
  WITH risen AS (
    DELETE FROM afterdelete.dead_file_cleanup d WHERE d.id = retry.id RETURNING d.*
  )
  INSERT INTO afterdelete.pending_file_cleanup (id, target, run_at, created_at, prune_parents, source, actor, last_error,
         objects_deleted, bytes_freed)
  SELECT r.id, r.target, clock_timestamp(), r.created_at, r.prune_parents, r.source, r.actor, r.last_error,
         r.objects_deleted, r.bytes_freed
    FROM risen r;
  IF FOUND THEN RETURN true; END IF;

  WITH waiting AS (
    DELETE FROM afterdelete.pending_file_cleanup p
     WHERE p.id = retry.id AND (p.attempt > 0 OR p.put_back IS NOT NULL)
    RETURNING p.*
  )
  INSERT INTO afterdelete.pending_file_cleanup (id, target, run_at, created_at, first_due_at, prune_parents, source, actor,
         last_error, objects_deleted, bytes_freed)
  SELECT w.id, w.target, clock_timestamp(), w.created_at, w.first_due_at, w.prune_parents, w.source, w.actor,
         w.last_error, w.objects_deleted, w.bytes_freed
    FROM waiting w;
  RETURN FOUND;
END
$$;
COMMENT ON FUNCTION afterdelete.retry(bigint) IS
  'Tries a dead cleanup again, or a pending one that waits for its backoff or is blocked: due now, attempts from 0. '
  'False for anything else; a delayed row keeps its delay. Raises for a dead row that a watch wrote for values that make no target.';

CREATE FUNCTION afterdelete.discard(id bigint, note text DEFAULT NULL) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  WITH ended AS (
    DELETE FROM afterdelete.dead_file_cleanup d WHERE d.id = discard.id RETURNING d.*
  ), recorded AS (
    INSERT INTO afterdelete.done_file_cleanup (id, target, outcome, attempt, objects_deleted, bytes_freed, source, actor,
           note, created_at, done_at)
    SELECT e.id, e.target, 'discarded', e.attempt, e.objects_deleted, e.bytes_freed, e.source, e.actor,
           coalesce('discarded: ' || note || '; ', 'discarded; ') || 'it was dead: ' || e.last_error, e.created_at,
           clock_timestamp()
      FROM ended e
    RETURNING 1
  )
  SELECT EXISTS (SELECT FROM recorded)
$$;
COMMENT ON FUNCTION afterdelete.discard(bigint, text) IS
  'Gives up a dead cleanup: what is left of its target stays. It goes to done as discarded. False when it is not dead.';

CREATE FUNCTION afterdelete.pause(store text, reason text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF pause.store IS NULL OR pause.store !~ '^[a-z][a-z0-9+.-]*://[^/]*$' THEN
    RAISE EXCEPTION 'not a store: %', coalesce(quote_literal(pause.store), 'NULL')
      USING ERRCODE = 'invalid_parameter_value',
            HINT = 'A store is scheme and authority without a slash at the end, e.g. file:// or s3://bucket; afterdelete.backlog lists those in use.';
  END IF;
  INSERT INTO afterdelete.store_pause AS sp (store, reason) VALUES (pause.store, pause.reason)
  ON CONFLICT ON CONSTRAINT store_pause_pkey
  DO UPDATE SET paused_by = excluded.paused_by, reason = excluded.reason, actor = excluded.actor, paused_at = excluded.paused_at;
  PERFORM pg_notify('afterdelete', 'pauses');
END
$$;
COMMENT ON FUNCTION afterdelete.pause(text, text) IS
  'Stops all daemons from claiming rows of a store until resume(store). What they are deleting just now is finished; the rest is handed back.';

CREATE FUNCTION afterdelete.resume(store text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- A fuse starts a new window. First, and under its lock: in the order in which spend() takes the rows.
  PERFORM pg_advisory_xact_lock(1634104421, hashtext(resume.store));
  DELETE FROM afterdelete.fuse_count c WHERE starts_with(c.root, resume.store || '/');
  DELETE FROM afterdelete.store_pause sp WHERE sp.store = resume.store;
  -- Rows became claimable without an INSERT: tell those who sleep.
  PERFORM pg_notify('afterdelete', 'pauses');
END
$$;
COMMENT ON FUNCTION afterdelete.resume(text) IS
  'Ends the pause of a store by an operator or a fuse, if there is one, and starts a new window of the fuse for its roots.';
