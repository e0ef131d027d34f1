-- Optional roles of least privilege; run it by hand as a role with CREATEROLE that owns the schema, as often as you like.
-- Grant them to the roles that your services, daemons and people log in with: GRANT afterdelete_writer TO my_service.

DO $$
DECLARE
  role text;
BEGIN
  FOREACH role IN ARRAY ARRAY['afterdelete_writer', 'afterdelete_worker', 'afterdelete_operator', 'afterdelete_reader'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN EXECUTE format('CREATE ROLE %I NOLOGIN', role); END IF;
  END LOOP;
END
$$;

GRANT USAGE ON SCHEMA afterdelete TO afterdelete_writer, afterdelete_worker, afterdelete_operator, afterdelete_reader;

-- A service: writes cleanups, and ends its own reservations.
GRANT INSERT (target, run_at, prune_parents, source, actor) ON afterdelete.pending_file_cleanup TO afterdelete_writer;
GRANT SELECT (id) ON afterdelete.pending_file_cleanup TO afterdelete_writer;
GRANT EXECUTE ON FUNCTION afterdelete.enqueue(text, interval, integer, text), afterdelete.confirm(bigint) TO afterdelete_writer;

-- A daemon.
GRANT SELECT, INSERT, UPDATE, DELETE ON afterdelete.pending_file_cleanup, afterdelete.running_file_cleanup, afterdelete.worker,
  afterdelete.worker_pause TO afterdelete_worker;
GRANT SELECT, INSERT ON afterdelete.done_file_cleanup, afterdelete.dead_file_cleanup, afterdelete.file_root TO afterdelete_worker;
GRANT SELECT ON afterdelete.migration, afterdelete.store_pause, afterdelete.watched, afterdelete.backlog, afterdelete.stuck TO afterdelete_worker;
-- What `afterdelete check --adopt` records.
GRANT UPDATE (identity, recorded_by, recorded_at) ON afterdelete.file_root TO afterdelete_worker;
GRANT USAGE ON SEQUENCE afterdelete.unrepeated_number TO afterdelete_worker;
GRANT EXECUTE ON FUNCTION afterdelete.server(), afterdelete.unrepeated() TO afterdelete_worker;
GRANT EXECUTE ON FUNCTION
  afterdelete.register(text, text, text[], text[], interval, interval), afterdelete.heartbeat(bigint, interval), afterdelete.reap(),
  afterdelete.deregister(bigint), afterdelete.commit_on_disk(), afterdelete.claim(bigint, text[], integer[], text[], bigint[]), afterdelete.mark(), afterdelete.claim_suspect(bigint, text[]),
  afterdelete.next_due(text[]), afterdelete.settle_done(text, boolean, bigint[], bigint[], text[], bigint[], bigint[], text[]),
  afterdelete.settle_back(bigint[], bigint[], text[], double precision[], text[], bigint[], bigint[]),
  afterdelete.settle_dead(text, bigint[], bigint[], text[], bigint[], bigint[]), afterdelete.microseconds(timestamptz), afterdelete.not_among(bigint[], bigint[]),
  afterdelete.progress(bigint[], bigint[], bigint[], bigint[]), afterdelete.maintain_history(), afterdelete.extend_watches(),
  afterdelete.spend(text, text[], integer[], bigint, interval), afterdelete.give_back(text, text[], integer[], timestamptz)
  TO afterdelete_worker;

-- A person who looks, and one who acts.
GRANT SELECT ON ALL TABLES IN SCHEMA afterdelete TO afterdelete_reader, afterdelete_operator;
-- For `afterdelete check --adopt`.
GRANT INSERT, UPDATE ON afterdelete.file_root TO afterdelete_operator;
GRANT EXECUTE ON FUNCTION afterdelete.cancel(bigint, text), afterdelete.retry(bigint), afterdelete.discard(bigint, text),
  afterdelete.pause(text, text), afterdelete.resume(text) TO afterdelete_operator;
GRANT EXECUTE ON FUNCTION afterdelete.estimated_pending(text, boolean) TO afterdelete_worker, afterdelete_operator, afterdelete_reader;  -- for backlog
-- Who holds what; verdicts is the guard itself, and watch_problems what `afterdelete check` asks.
GRANT EXECUTE ON FUNCTION afterdelete.lease_end(afterdelete.worker) TO afterdelete_worker, afterdelete_operator, afterdelete_reader;
GRANT EXECUTE ON FUNCTION afterdelete.is_held(text), afterdelete.holders(text) TO afterdelete_worker, afterdelete_operator, afterdelete_reader;
GRANT EXECUTE ON FUNCTION afterdelete.verdicts(text[], bigint), afterdelete.watch_problems(), afterdelete.guard_problems() TO afterdelete_worker, afterdelete_operator;
