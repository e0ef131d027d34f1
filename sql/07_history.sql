-- The audit trail has a partition a day (UTC). Made ahead and dropped by a function that daemons call every hour; it
-- runs as the schema's owner, because a daemon's role need not own tables.

CREATE FUNCTION afterdelete.maintain_history(OUT made integer, OUT dropped integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' SET timezone = 'UTC' AS $$
DECLARE
  day date;
  part text;
  keep interval;
  today date := clock_timestamp()::date;
BEGIN
  made := 0;
  dropped := 0;
  -- Several daemons call it at once: one works, the others have nothing to do.
  IF NOT pg_try_advisory_xact_lock(1634104420, hashtext('afterdelete.maintain_history')) THEN RETURN; END IF;

  -- Without a live worker nobody says how long to keep: keep all. One that has missed its heartbeats still has its say.
  SELECT max(w.history) INTO keep FROM afterdelete.worker w HAVING bool_or(afterdelete.lease_end(w) > clock_timestamp());
  -- Dropping comes first: it locks all of the table, and who waits for the default partition below would stand in its way.
  IF keep IS NOT NULL THEN
    FOR part, day IN
      SELECT c.relname, to_date(right(c.relname, 8), 'YYYYMMDD')
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
       WHERE i.inhparent = 'afterdelete.done_file_cleanup'::regclass AND c.relname ~ '^done_file_cleanup_[0-9]{8}$'
    LOOP
      CONTINUE WHEN (day + 1)::timestamptz > clock_timestamp() - keep;
      EXECUTE format('DROP TABLE afterdelete.%I', part);
      dropped := dropped + 1;
    END LOOP;
    DELETE FROM afterdelete.done_file_cleanup_default d WHERE d.done_at < clock_timestamp() - keep;
  END IF;

  FOR day IN SELECT today + n FROM generate_series(0, 3) AS n LOOP
    part := 'done_file_cleanup_' || to_char(day, 'YYYYMMDD');
    CONTINUE WHEN to_regclass('afterdelete.' || part) IS NOT NULL;
    -- Settles wait at the door: inside, a row of theirs could come between moving the others and attaching, or be on its
    -- way to the default partition, which then refuses it.
    LOCK TABLE ONLY afterdelete.done_file_cleanup IN SHARE ROW EXCLUSIVE MODE;
    EXECUTE format('CREATE TABLE afterdelete.%I (LIKE afterdelete.done_file_cleanup INCLUDING ALL)', part);
    EXECUTE format('COMMENT ON TABLE afterdelete.%I IS %L', part, 'Cleanups that ended on ' || day || ' (UTC).');
    -- Rows that came when the day had no partition: attaching refuses while they stand in the default one.
    EXECUTE format('WITH late AS (DELETE FROM afterdelete.done_file_cleanup_default WHERE done_at >= %L AND done_at < %L RETURNING *)
                    INSERT INTO afterdelete.%I SELECT * FROM late', day::timestamptz, (day + 1)::timestamptz, part);
    EXECUTE format('ALTER TABLE afterdelete.done_file_cleanup ATTACH PARTITION afterdelete.%I FOR VALUES FROM (%L) TO (%L)',
                   part, day::timestamptz, (day + 1)::timestamptz);
    made := made + 1;
  END LOOP;
END
$$;
COMMENT ON FUNCTION afterdelete.maintain_history() IS
  'Makes the partitions of the audit trail for today and the next three days (UTC), and drops those older than the longest retention of a live worker.';

SELECT afterdelete.maintain_history();
