-- Who works here, what is paused, and which disk is which.

CREATE TABLE afterdelete.worker (
  id           bigint PRIMARY KEY DEFAULT afterdelete.unrepeated(),
  name         text NOT NULL,
  version      text NOT NULL,
  stores       text[] NOT NULL,
  roots        text[] NOT NULL,
  history      interval NOT NULL,
  started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
  heartbeat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  lease_until  timestamptz NOT NULL
) WITH (fillfactor = 50);

COMMENT ON TABLE afterdelete.worker IS 'Live workers, one row a daemon: its heartbeat, and the lease under which it holds running rows.';
COMMENT ON COLUMN afterdelete.worker.name IS 'Host, process id and start of the daemon.';
COMMENT ON COLUMN afterdelete.worker.id IS 'Number of the worker; a daemon that lost its lease gets a new one.';
COMMENT ON COLUMN afterdelete.worker.started_at IS 'When it registered.';
COMMENT ON COLUMN afterdelete.worker.heartbeat_at IS 'When it last renewed its lease.';
COMMENT ON COLUMN afterdelete.worker.version IS 'Version of afterdelete that it runs.';
COMMENT ON COLUMN afterdelete.worker.stores IS 'Stores that it serves.';
COMMENT ON COLUMN afterdelete.worker.roots IS 'Address prefixes inside which it deletes.';
COMMENT ON COLUMN afterdelete.worker.history IS 'How long it is configured to keep done rows; the longest of all live workers counts.';
COMMENT ON COLUMN afterdelete.worker.lease_until IS 'When it is taken for vanished, if no heartbeat comes before; after a start of the server later, see lease_end(). Time of the database.';

CREATE TABLE afterdelete.worker_pause (
  worker    bigint NOT NULL REFERENCES afterdelete.worker ON DELETE CASCADE,
  store     text COLLATE "C" NOT NULL,
  paused_by text NOT NULL CONSTRAINT paused_by_is_known CHECK (paused_by IN ('breaker', 'root')),
  reason    text NOT NULL,
  paused_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (worker, store)
);

COMMENT ON TABLE afterdelete.worker_pause IS 'Stores that one worker leaves alone for now: breaker (the storage does not answer) or root (the disk is not the recorded one).';
COMMENT ON COLUMN afterdelete.worker_pause.worker IS 'The worker: afterdelete.worker.id.';
COMMENT ON COLUMN afterdelete.worker_pause.store IS 'What it leaves alone.';
COMMENT ON COLUMN afterdelete.worker_pause.paused_by IS 'breaker or root.';
COMMENT ON COLUMN afterdelete.worker_pause.reason IS 'What is wrong.';
COMMENT ON COLUMN afterdelete.worker_pause.paused_at IS 'Since when.';

CREATE TABLE afterdelete.store_pause (
  store     text COLLATE "C" PRIMARY KEY,
  paused_by text NOT NULL DEFAULT 'operator' CONSTRAINT paused_by_is_known CHECK (paused_by IN ('operator', 'fuse')),
  reason    text,
  actor     text NOT NULL DEFAULT coalesce(nullif(current_setting('afterdelete.actor', true), ''), session_user::text),
  paused_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

COMMENT ON TABLE afterdelete.store_pause IS 'Stores that all workers leave alone until afterdelete.resume(store).';
COMMENT ON COLUMN afterdelete.store_pause.store IS 'What they leave alone.';
COMMENT ON COLUMN afterdelete.store_pause.paused_by IS 'operator (afterdelete.pause) or fuse (too many cleanups of one root).';
COMMENT ON COLUMN afterdelete.store_pause.reason IS 'Why.';
COMMENT ON COLUMN afterdelete.store_pause.actor IS 'Who: the setting afterdelete.actor, else the session user.';
COMMENT ON COLUMN afterdelete.store_pause.paused_at IS 'Since when.';

CREATE TABLE afterdelete.file_root (
  root        text COLLATE "C" PRIMARY KEY,
  identity    uuid NOT NULL,
  recorded_by text NOT NULL,
  recorded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

COMMENT ON TABLE afterdelete.file_root IS 'The UUID in .afterdelete-root of every file: root, as first seen. Another one, or none, means another disk: the store pauses.';
COMMENT ON COLUMN afterdelete.file_root.root IS 'The root, e.g. file:///data/.';
COMMENT ON COLUMN afterdelete.file_root.identity IS 'The UUID that its .afterdelete-root must have.';
COMMENT ON COLUMN afterdelete.file_root.recorded_by IS 'The worker or person that recorded it.';
COMMENT ON COLUMN afterdelete.file_root.recorded_at IS 'When it was recorded.';

CREATE FUNCTION afterdelete.register(name text, version text, stores text[], roots text[], lease interval, history interval)
RETURNS bigint LANGUAGE sql AS $$
  INSERT INTO afterdelete.worker (name, version, stores, roots, history, lease_until)
  VALUES (name, version, stores, roots, history, clock_timestamp() + lease)
  RETURNING id
$$;
COMMENT ON FUNCTION afterdelete.register(text, text, text[], text[], interval, interval) IS 'A daemon starts: gives it a worker row with a lease.';

-- While the server was away nobody could renew a lease: from its start on each has its own once more. (Not where its start lies in the
-- future, because the clock was set back; and infinite times cannot be subtracted before PostgreSQL 17.)
CREATE FUNCTION afterdelete.lease_end(w afterdelete.worker) RETURNS timestamptz LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN isfinite(w.lease_until) AND w.heartbeat_at < pg_postmaster_start_time() AND pg_postmaster_start_time() <= statement_timestamp()
              THEN greatest(w.lease_until, pg_postmaster_start_time() + (w.lease_until - w.heartbeat_at))
              ELSE w.lease_until END
$$;
COMMENT ON FUNCTION afterdelete.lease_end(afterdelete.worker) IS
  'When a worker may be taken for vanished: the end of its lease, or, if the server was started meanwhile, so long after that.';

-- Renewing is safe for as long as the row stands, even past lease_until: rows change hands only after reap() has
-- deleted it.
CREATE FUNCTION afterdelete.heartbeat(worker_id bigint, lease interval, OUT alive boolean, OUT suspects boolean)
LANGUAGE plpgsql AS $$
DECLARE
  served text[];
BEGIN
  UPDATE afterdelete.worker w SET heartbeat_at = clock_timestamp(), lease_until = clock_timestamp() + lease
   WHERE w.id = worker_id
  RETURNING w.stores INTO served;
  alive := FOUND;
  suspects := EXISTS (SELECT FROM unnest(served) AS s (store)
                       WHERE NOT EXISTS (SELECT FROM afterdelete.store_pause sp WHERE sp.store = s.store)
                         AND EXISTS (SELECT FROM afterdelete.pending_file_cleanup p
                                      WHERE p.store = s.store AND p.lost >= 3 AND p.due_at <= clock_timestamp()));
END
$$;
COMMENT ON FUNCTION afterdelete.heartbeat(bigint, interval) IS 'Renews a worker''s lease. alive is false when it has been taken for vanished; suspects tells of rows that must run alone.';

-- Two statements: an in-flight claim holds a key share lock on its worker, so that the first one passes it by; the
-- second sees all rows of the workers that the first one deleted. An attempt is not consumed: the row may be innocent.
CREATE FUNCTION afterdelete.reap(OUT workers integer, OUT moved integer, OUT died integer)
LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM afterdelete.worker
   WHERE id IN (SELECT w.id FROM afterdelete.worker w WHERE afterdelete.lease_end(w) < clock_timestamp() FOR UPDATE SKIP LOCKED);
  GET DIAGNOSTICS workers = ROW_COUNT;

  WITH taken AS (
    DELETE FROM afterdelete.running_file_cleanup r
     WHERE r.id IN (SELECT o.id FROM afterdelete.running_file_cleanup o
                     WHERE NOT EXISTS (SELECT FROM afterdelete.worker w WHERE w.id = o.worker)
                       FOR UPDATE SKIP LOCKED)
    RETURNING r.*
  ), lost AS (
    -- What it failed with before it was lost for the first time.
    SELECT t.*, nullif(regexp_replace(t.last_error, '^its worker vanished .*?(; before that: |$)', ''), '') AS before
      FROM taken t
  ), back AS (
    INSERT INTO afterdelete.pending_file_cleanup (id, target, run_at, created_at, first_due_at, prune_parents, source,
           actor, attempt, lost, put_back, last_error, objects_deleted, bytes_freed)
    SELECT l.id, l.target, clock_timestamp(), l.created_at, l.first_due_at, l.prune_parents, l.source, l.actor, l.attempt,
           l.lost + 1, 'lost', 'its worker vanished with it in hand (' || l.lost + 1 || ' times)'
             || coalesce('; before that: ' || l.before, ''),
           l.objects_deleted, l.bytes_freed
      FROM lost l WHERE l.lost + 1 < 6
    RETURNING 1
  ), dead AS (
    INSERT INTO afterdelete.dead_file_cleanup (id, target, prune_parents, source, actor, attempt, lost, last_error,
           objects_deleted, bytes_freed, created_at, first_due_at, died_at)
    SELECT l.id, l.target, l.prune_parents, l.source, l.actor, l.attempt, l.lost + 1,
           'its worker vanished ' || l.lost + 1 || ' times with it in hand, the last 3 times with nothing else: '
             || 'it seems to kill the daemon. Look at the daemon''s log, then afterdelete.retry(' || l.id || ')'
             || coalesce('; before that: ' || l.before, ''),
           l.objects_deleted, l.bytes_freed, l.created_at, l.first_due_at, clock_timestamp()
      FROM lost l WHERE l.lost + 1 >= 6
    RETURNING 1
  )
  SELECT (SELECT count(*) FROM back), (SELECT count(*) FROM dead) INTO moved, died;
END
$$;
COMMENT ON FUNCTION afterdelete.reap() IS 'Deletes workers whose lease has ended and moves the rows they held back to pending; a row lost 3 times alone dies.';

CREATE FUNCTION afterdelete.deregister(worker_id bigint) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
  handed_back integer;
BEGIN
  DELETE FROM afterdelete.worker WHERE id = worker_id;
  WITH held AS (
    DELETE FROM afterdelete.running_file_cleanup r WHERE r.worker = worker_id RETURNING r.*
  )
  INSERT INTO afterdelete.pending_file_cleanup (id, target, run_at, created_at, first_due_at, prune_parents, source,
         actor, attempt, lost, last_error, objects_deleted, bytes_freed)
  SELECT h.id, h.target, clock_timestamp(), h.created_at, h.first_due_at, h.prune_parents, h.source, h.actor, h.attempt,
         h.lost, h.last_error, h.objects_deleted, h.bytes_freed
    FROM held h;
  GET DIAGNOSTICS handed_back = ROW_COUNT;
  RETURN handed_back;
END
$$;
COMMENT ON FUNCTION afterdelete.deregister(bigint) IS 'A daemon ends in good order: hands back what it still holds and removes its row.';
