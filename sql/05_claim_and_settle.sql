-- The daemon's hot path. Each function is one round trip for many rows, and sets what its plan depends on by itself:
-- behind a transaction pooler a session setting would be somebody else's.

-- STABLE, as date_part() of a timestamptz is: PostgreSQL writes a function's body in its place only where that keeps what the
-- label promises. Called as a function it takes more of a claim's time than anything else.
CREATE FUNCTION afterdelete.microseconds(moment timestamptz) RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE RETURN
  (1000000 * date_part('epoch', moment))::bigint;
COMMENT ON FUNCTION afterdelete.microseconds(timestamptz) IS 'Microseconds since 1970.';

-- What a claim has brought is deleted. So its COMMIT must be on disk, and with it, because there is one log, the COMMIT of the
-- transaction that wrote the row: after a crash the one could be undone while its file is gone, or the other, and the record with it.
CREATE FUNCTION afterdelete.commit_on_disk() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF current_setting('synchronous_commit') = 'off' THEN PERFORM set_config('synchronous_commit', 'local', true); END IF;
END
$$;
COMMENT ON FUNCTION afterdelete.commit_on_disk() IS 'Has this transaction wait until its COMMIT is on disk, whatever the default of the role or the database is.';

-- For each store with room the due rows in order, so that no store starves another. A paused store is left out here;
-- a full one, or one whose storage is down, by the caller. Rows that seem to kill their worker (lost 3 times) run
-- alone: claim_suspect takes those. others: roots that other live workers serve and this one does not; what lies inside
-- them, and strictly inside no root of this worker, is theirs. (Roots of two workers may contain one another. The file that
-- marks a root, .afterdelete-root, does not lie inside it.)
--
-- floors: from which due_at on to look in each store, in microseconds since 1970. Rows that were claimed leave dead tuples behind,
-- and while somebody's old snapshot keeps vacuum from them, each claim from the beginning would have to pass all of them. Which
-- floors are safe: src/reconciler/floors.ts. paused: the stores that were not looked at, about which nothing may be concluded.
--
-- The answer is one row, a column of the claimed rows an array: a message a row would cost the daemon several times as much to
-- read. In targets each has a line, because none has control characters. Most rows are plain: never claimed before, and without
-- parents to prune. uncommon are the ids of the others, and the columns after it are theirs. Times are in microseconds since 1970;
-- date_part(), which gives no numeric, is right to the microsecond until the year 2100.
CREATE FUNCTION afterdelete.claim(worker_id bigint, stores text[], rooms integer[], others text[] DEFAULT '{}', floors bigint[] DEFAULT NULL,
  OUT claim bigint, OUT claimed_at bigint, OUT ids bigint[], OUT targets text, OUT due_at bigint[],
  OUT uncommon bigint[], OUT first_due_at bigint[], OUT prune_parents smallint[], OUT attempt integer[], OUT lost integer[],
  OUT objects_deleted bigint[], OUT bytes_freed bigint[], OUT paused text[])
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
  moment timestamptz;
  mine text[];
BEGIN
  -- The lock holds the reaper off until this claim is visible to it.
  SELECT w.roots INTO mine FROM afterdelete.worker w WHERE w.id = worker_id AND afterdelete.lease_end(w) > clock_timestamp() FOR KEY SHARE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'worker % has lost its lease', worker_id USING ERRCODE = 'AD001';
  END IF;
  PERFORM afterdelete.commit_on_disk();
  claim := afterdelete.unrepeated();
  moment := clock_timestamp();
  claimed_at := afterdelete.microseconds(moment);
  WITH asked AS MATERIALIZED (
    SELECT s.store, s.room, coalesce('epoch'::timestamptz + s.floor * interval '1 microsecond', '-infinity') AS floor,
           EXISTS (SELECT FROM afterdelete.store_pause sp WHERE sp.store = s.store) AS paused
      FROM unnest(stores, rooms, floors) AS s (store, room, floor) WHERE s.store IS NOT NULL
  ), picked AS MATERIALIZED (
    SELECT due.tid
      FROM asked s
     CROSS JOIN LATERAL (
       SELECT p.ctid AS tid FROM afterdelete.pending_file_cleanup p
        WHERE p.store = s.store AND p.due_at >= s.floor AND p.due_at <= moment AND p.lost < 3
          AND (others = '{}'
               OR NOT EXISTS (SELECT FROM unnest(others) AS o (root) WHERE starts_with(p.target, o.root))
               OR EXISTS (SELECT FROM unnest(mine) AS m (root) WHERE starts_with(p.target, m.root) AND p.target <> m.root
                             AND NOT starts_with(p.target, m.root || '.afterdelete-root')))
        ORDER BY p.due_at, p.id LIMIT s.room
          FOR UPDATE SKIP LOCKED) due
     WHERE NOT s.paused
  ), taken AS (
    DELETE FROM afterdelete.pending_file_cleanup p WHERE p.ctid = ANY (ARRAY(SELECT picked.tid FROM picked))
    RETURNING p.id, p.target, p.store, p.prune_parents, p.source, p.actor, p.attempt, p.lost, p.last_error, p.created_at, p.first_due_at, p.due_at,
              p.objects_deleted, p.bytes_freed,
              p.prune_parents > 0 OR p.attempt > 0 OR p.lost > 0 OR num_nonnulls(p.first_due_at, p.objects_deleted, p.bytes_freed) > 0 AS uncommon
  ), moved AS (
    INSERT INTO afterdelete.running_file_cleanup (id, claim, worker, claimed_at, target, store, prune_parents, source, actor,
           attempt, lost, last_error, created_at, first_due_at, objects_deleted, bytes_freed)
    SELECT t.id, claim, worker_id, moment, t.target, t.store, t.prune_parents, t.source, t.actor,
           t.attempt, t.lost, t.last_error, t.created_at, coalesce(t.first_due_at, t.due_at), t.objects_deleted, t.bytes_freed
      FROM taken t
  )
  SELECT array_agg(t.id), string_agg(t.target, E'\n'), array_agg(afterdelete.microseconds(t.due_at)),
         array_agg(t.id) FILTER (WHERE t.uncommon),
         array_agg(afterdelete.microseconds(coalesce(t.first_due_at, t.due_at))) FILTER (WHERE t.uncommon),
         array_agg(t.prune_parents) FILTER (WHERE t.uncommon), array_agg(t.attempt) FILTER (WHERE t.uncommon),
         array_agg(t.lost) FILTER (WHERE t.uncommon), array_agg(t.objects_deleted) FILTER (WHERE t.uncommon),
         array_agg(t.bytes_freed) FILTER (WHERE t.uncommon),
         (SELECT array_agg(a.store) FROM asked a WHERE a.paused)
    INTO ids, targets, due_at, uncommon, first_due_at, prune_parents, attempt, lost, objects_deleted, bytes_freed, paused
    FROM taken t;
END
$$;
COMMENT ON FUNCTION afterdelete.claim(bigint, text[], integer[], text[], bigint[]) IS
  'Moves due rows to running, at most rooms[i] of stores[i], due from floors[i] on, except those inside the roots of others. One row that '
  'tells of all; its arrays are NULL when nothing was due. Raises AD001 when the worker has lost its lease.';

-- In this order: whoever has its transaction id before the moment has a smaller one than ours. Once all smaller ones have ended,
-- no row can appear any more that was due before that moment, because a row's time is taken after its transaction has an id.
CREATE FUNCTION afterdelete.mark(OUT moment timestamptz, OUT own xid8, OUT ended_below xid8) LANGUAGE plpgsql AS $$
BEGIN
  moment := clock_timestamp();
  own := pg_current_xact_id();
  ended_below := pg_snapshot_xmin(pg_current_snapshot());
END
$$;
COMMENT ON FUNCTION afterdelete.mark() IS
  'A moment, a transaction id that is larger than that of any transaction which had one before the moment, and the id below which all have ended.';

CREATE FUNCTION afterdelete.claim_suspect(worker_id bigint, stores text[])
RETURNS SETOF afterdelete.running_file_cleanup LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
BEGIN
  PERFORM FROM afterdelete.worker w WHERE w.id = worker_id AND afterdelete.lease_end(w) > clock_timestamp() FOR KEY SHARE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'worker % has lost its lease', worker_id USING ERRCODE = 'AD001';
  END IF;
  PERFORM afterdelete.commit_on_disk();
  RETURN QUERY
  WITH picked AS MATERIALIZED (
    SELECT p.ctid AS tid FROM afterdelete.pending_file_cleanup p
     WHERE p.store = ANY (stores) AND p.lost >= 3 AND p.due_at <= clock_timestamp()
       AND NOT EXISTS (SELECT FROM afterdelete.store_pause sp WHERE sp.store = p.store)
     ORDER BY p.due_at, p.id LIMIT 1
       FOR UPDATE OF p SKIP LOCKED
  ), taken AS (
    DELETE FROM afterdelete.pending_file_cleanup p USING picked WHERE p.ctid = picked.tid RETURNING p.*
  )
  INSERT INTO afterdelete.running_file_cleanup (id, claim, worker, claimed_at, target, store, prune_parents, source, actor,
         attempt, lost, last_error, created_at, first_due_at, objects_deleted, bytes_freed)
  SELECT t.id, afterdelete.unrepeated(), worker_id, clock_timestamp(), t.target, t.store, t.prune_parents, t.source,
         t.actor, t.attempt, t.lost, t.last_error, t.created_at, coalesce(t.first_due_at, t.due_at), t.objects_deleted, t.bytes_freed
    FROM taken t
  RETURNING *;
END
$$;
COMMENT ON FUNCTION afterdelete.claim_suspect(bigint, text[]) IS
  'Claims one row that was lost 3 times or more, for a worker that has nothing else in hand.';

CREATE FUNCTION afterdelete.next_due(stores text[]) RETURNS double precision LANGUAGE sql STABLE
SET enable_seqscan = off SET jit = off AS $$
  SELECT 1000 * extract(epoch FROM min(next.due_at) - clock_timestamp())
    FROM unnest(stores) AS s (store)
   CROSS JOIN LATERAL (
     SELECT p.due_at FROM afterdelete.pending_file_cleanup p
      WHERE p.store = s.store AND p.due_at > statement_timestamp() AND p.due_at < 'infinity'
      ORDER BY p.due_at LIMIT 1) next
   WHERE NOT EXISTS (SELECT FROM afterdelete.store_pause sp WHERE sp.store = s.store)
$$;
COMMENT ON FUNCTION afterdelete.next_due(text[]) IS 'Milliseconds until the next row of these stores falls due; NULL when none waits.';

-- The settles look for the ids in one pass of the index, and find what goes with each by hashing; loops and merges are switched
-- off, because joined row by row their plan goes quadratic once running has been analysed while empty. A row that progress()
-- updates meanwhile is found where it stands then. An id that is sent twice is done once.
--
-- They return the ids that were not held any more under that claim: none, as a rule.

CREATE FUNCTION afterdelete.not_among(ids bigint[], done bigint[]) RETURNS bigint[] LANGUAGE sql IMMUTABLE RETURN
  CASE WHEN cardinality(done) = cardinality(ids) THEN '{}'
       ELSE ARRAY(SELECT i.id FROM unnest(ids) AS i (id) EXCEPT SELECT d.id FROM unnest(done) AS d (id)) END;
COMMENT ON FUNCTION afterdelete.not_among(bigint[], bigint[]) IS 'The ids that are not done.';

CREATE FUNCTION afterdelete.settle_done(worker_name text, keep boolean, ids bigint[], claims bigint[], outcomes text[],
  objects bigint[], bytes bigint[], notes text[])
RETURNS bigint[] LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_nestloop = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  moment timestamptz := clock_timestamp();
  done bigint[];
BEGIN
  WITH gone AS (
    DELETE FROM afterdelete.running_file_cleanup r
     USING unnest(ids, claims, outcomes, objects, bytes, notes) AS s (id, claim, outcome, objects, bytes, note)
     WHERE r.id = ANY (ids) AND r.id = s.id AND r.claim = s.claim
    RETURNING r.id, r.target, s.outcome, r.attempt, s.objects, s.bytes, r.source, r.actor, s.note, r.created_at
  ), recorded AS (
    INSERT INTO afterdelete.done_file_cleanup (id, target, outcome, attempt, objects_deleted, bytes_freed, source, actor,
           note, created_at, done_at, worker)
    SELECT g.id, g.target, g.outcome, g.attempt + 1, g.objects, g.bytes, g.source, g.actor, g.note, g.created_at, moment, worker_name
      FROM gone g WHERE keep
  )
  SELECT coalesce(array_agg(g.id), '{}') INTO done FROM gone g;
  RETURN afterdelete.not_among(ids, done);
END
$$;
COMMENT ON FUNCTION afterdelete.settle_done(text, boolean, bigint[], bigint[], text[], bigint[], bigint[], text[]) IS
  'Ends claimed rows and writes their audit trail (unless keep is false). Returns the ids that were no longer held under that claim.';

CREATE FUNCTION afterdelete.settle_back(ids bigint[], claims bigint[], reasons text[], delays double precision[], errors text[],
  objects bigint[], bytes bigint[])
RETURNS bigint[] LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_nestloop = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  done bigint[];
BEGIN
  -- What this worker will not do now, another may at once.
  IF reasons && ARRAY['handed_back', 'elsewhere'] THEN PERFORM pg_notify('afterdelete', ''); END IF;
  -- By hand, because only a superuser may create a function with a SET clause for a setting that no library defines.
  PERFORM set_config('afterdelete.quiet', 'on', true);
  WITH gone AS (
    DELETE FROM afterdelete.running_file_cleanup r
     USING unnest(ids, claims, reasons, delays, errors, objects, bytes) AS s (id, claim, reason, delay, error, objects, bytes)
     WHERE r.id = ANY (ids) AND r.id = s.id AND r.claim = s.claim
    RETURNING r.*, s.reason, s.delay, s.error, s.objects, s.bytes
  ), back AS (
    -- A row that its worker brought back in good order did not kill it: lost starts anew.
    INSERT INTO afterdelete.pending_file_cleanup (id, target, run_at, created_at, first_due_at, prune_parents, source, actor,
           attempt, lost, put_back, last_error, objects_deleted, bytes_freed)
    SELECT g.id, g.target, clock_timestamp() + g.delay * interval '1 millisecond', g.created_at, g.first_due_at,
           g.prune_parents, g.source, g.actor,
           CASE g.reason WHEN 'retry' THEN g.attempt + 1 ELSE g.attempt END,
           CASE g.reason WHEN 'handed_back' THEN g.lost ELSE 0 END,
           CASE g.reason WHEN 'handed_back' THEN NULL WHEN 'elsewhere' THEN 'blocked' ELSE g.reason END, coalesce(g.error, g.last_error), g.objects, g.bytes
      FROM gone g
  )
  SELECT coalesce(array_agg(g.id), '{}') INTO done FROM gone g;
  PERFORM set_config('afterdelete.quiet', '', true);
  RETURN afterdelete.not_among(ids, done);
END
$$;
COMMENT ON FUNCTION afterdelete.settle_back(bigint[], bigint[], text[], double precision[], text[], bigint[], bigint[]) IS
  'Moves claimed rows back to pending: retry (an attempt), blocked, yielded, handed_back or elsewhere (none; blocked until the worker '
  'that serves its root takes it); delays in milliseconds. '
  'Returns the ids that were no longer held under that claim.';

CREATE FUNCTION afterdelete.settle_dead(worker_name text, ids bigint[], claims bigint[], errors text[], objects bigint[], bytes bigint[])
RETURNS bigint[] LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_nestloop = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  moment timestamptz := clock_timestamp();
  done bigint[];
BEGIN
  WITH gone AS (
    DELETE FROM afterdelete.running_file_cleanup r
     USING unnest(ids, claims, errors, objects, bytes) AS s (id, claim, error, objects, bytes)
     WHERE r.id = ANY (ids) AND r.id = s.id AND r.claim = s.claim
    RETURNING r.*, s.error, s.objects, s.bytes
  ), dead AS (
    INSERT INTO afterdelete.dead_file_cleanup (id, target, prune_parents, source, actor, attempt, lost, last_error,
           objects_deleted, bytes_freed, created_at, first_due_at, died_at, worker)
    SELECT g.id, g.target, g.prune_parents, g.source, g.actor, g.attempt + 1, g.lost, g.error, g.objects, g.bytes,
           g.created_at, g.first_due_at, moment, worker_name
      FROM gone g
  )
  SELECT coalesce(array_agg(g.id), '{}') INTO done FROM gone g;
  RETURN afterdelete.not_among(ids, done);
END
$$;
COMMENT ON FUNCTION afterdelete.settle_dead(text, bigint[], bigint[], text[], bigint[], bigint[]) IS
  'Dead-letters claimed rows. Returns the ids that were no longer held under that claim.';

CREATE FUNCTION afterdelete.progress(ids bigint[], claims bigint[], objects bigint[], bytes bigint[]) RETURNS void LANGUAGE sql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_nestloop = off SET enable_mergejoin = off SET jit = off AS $$
  UPDATE afterdelete.running_file_cleanup r SET objects_deleted = s.objects, bytes_freed = s.bytes
    FROM unnest(ids, claims, objects, bytes) AS s (id, claim, objects, bytes)
   WHERE r.id = ANY (ids) AND r.id = s.id AND r.claim = s.claim
$$;
COMMENT ON FUNCTION afterdelete.progress(bigint[], bigint[], bigint[], bigint[]) IS
  'Stores how far running rows have come, so that it is not forgotten when their worker vanishes.';
