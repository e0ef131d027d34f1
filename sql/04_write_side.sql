-- What a service calls, and how a sleeping daemon hears of it.

-- NOTIFY takes a lock at COMMIT that all databases of the cluster share: with 16 writers it cut 6,700 commits a second
-- to 430. So a writer notifies only when a daemon that serves the store sleeps, and that is told by an advisory lock:
-- a daemon about to sleep takes (1634104420, hashtext(store)) exclusively, and claims once more before it sleeps.
--   The writer got the shared lock: no daemon can arm before this transaction ends, and locks end after the rows
--     become visible, so that the daemon's last claim sees them.
--   The writer did not get it: a daemon sleeps, or is about to, and listens already: notify.
-- A flag in a table instead of the lock loses wake-ups.
CREATE FUNCTION afterdelete.wake() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  -- One statement may name many stores, and each lock is a place in a table of fixed size: above 16, just notify.
  IF (SELECT count(*) > 16 OR NOT bool_and(pg_try_advisory_xact_lock_shared(1634104420, hashtext(d.store)))
        FROM (SELECT DISTINCT i.store FROM inserted i LIMIT 17) d)
  THEN
    PERFORM pg_notify('afterdelete', '');
  END IF;
  RETURN NULL;
END
$$;
COMMENT ON FUNCTION afterdelete.wake() IS 'Notifies at COMMIT when a daemon that serves a written store sleeps.';

-- afterdelete.quiet is on while a daemon puts rows back that are due later: it knows of them, and no other need wake.
CREATE TRIGGER wake AFTER INSERT ON afterdelete.pending_file_cleanup
  REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT
  WHEN (current_setting('afterdelete.quiet', true) IS DISTINCT FROM 'on')
  EXECUTE FUNCTION afterdelete.wake();
COMMENT ON TRIGGER wake ON afterdelete.pending_file_cleanup IS 'Wakes a sleeping daemon at COMMIT.';

CREATE FUNCTION afterdelete.enqueue(target text, delay interval DEFAULT '0', prune_parents integer DEFAULT 0, source text DEFAULT NULL)
RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO afterdelete.pending_file_cleanup (target, run_at, prune_parents, source)
  VALUES (target, now() + delay, prune_parents, source)
  RETURNING id
$$;
COMMENT ON FUNCTION afterdelete.enqueue(text, interval, integer, text) IS
  'Writes a cleanup in the caller''s transaction and returns its id. delay: wait so long before deleting. '
  'prune_parents: levels of empty parent directories to remove as well (file: only). source: free text, why.';

CREATE FUNCTION afterdelete.confirm(id bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- A row that has been in a worker's hands may be pending again with part of the upload gone already.
  IF NOT afterdelete.end_pending(confirm.id, 'confirmed', untouched => true) THEN
    RAISE EXCEPTION 'cleanup % cannot be confirmed: it is no longer pending, or has been tried', coalesce(confirm.id::text, 'NULL')
      USING ERRCODE = 'object_not_in_prerequisite_state',
            DETAIL = 'The reservation fell due (or was cancelled) before this transaction: what was uploaded under it is deleted, or about to be.',
            HINT = 'Roll back, upload again under a new reservation with a longer delay, and confirm that one.';
  END IF;
END
$$;
COMMENT ON FUNCTION afterdelete.confirm(bigint) IS
  'Ends a reservation in the caller''s transaction: the upload stays. Raises if the cleanup is no longer pending, or a daemon has had it in hand.';

CREATE FUNCTION afterdelete.end_pending(cleanup bigint, why text, untouched boolean DEFAULT false) RETURNS boolean LANGUAGE sql AS $$
  WITH ended AS (
    DELETE FROM afterdelete.pending_file_cleanup p
     WHERE p.id = cleanup AND (NOT untouched OR (p.first_due_at IS NULL AND p.last_error IS NULL))
    RETURNING p.*
  ), recorded AS (
    INSERT INTO afterdelete.done_file_cleanup (id, target, outcome, attempt, objects_deleted, bytes_freed, source, actor,
           note, created_at, done_at)
    SELECT e.id, e.target, 'discarded', e.attempt, e.objects_deleted, e.bytes_freed, e.source, e.actor, why, e.created_at,
           clock_timestamp()
      FROM ended e
    RETURNING 1
  )
  SELECT EXISTS (SELECT FROM recorded)
$$;
COMMENT ON FUNCTION afterdelete.end_pending(bigint, text, boolean) IS
  'Moves a pending row (untouched: only one that no daemon has claimed yet) to done as discarded; false when there is none. '
  'Used by confirm and cancel.';
