-- The fuse against disasters: of one root, only so many cleanups go within a window, over all daemons; one more pauses
-- its store until a person resumes it. Daemons that are configured with it spend before they delete.

-- Daemons may be configured with windows of different lengths. What goes is counted once in each length that is in use,
-- in buckets of a sixtieth of it: so all share the counts, and each keeps them for as long as its own window needs.
CREATE TABLE afterdelete.fuse_count (
  root     text COLLATE "C" NOT NULL,
  span     interval NOT NULL,
  ends_at  timestamptz NOT NULL,
  since    timestamptz NOT NULL,
  -- To be given back more than was spent is a mistake, and the fuse must not blow too late for it.
  cleanups bigint NOT NULL CONSTRAINT cleanups_are_not_negative CHECK (cleanups >= 0),
  PRIMARY KEY (root, span, ends_at)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0);

COMMENT ON TABLE afterdelete.fuse_count IS 'What the fuse counts: cleanups that went, or are about to, by root, length of the window and bucket of a sixtieth of it. Empty while no daemon has a fuse.';
COMMENT ON COLUMN afterdelete.fuse_count.root IS 'The root, e.g. file:///data/.';
COMMENT ON COLUMN afterdelete.fuse_count.span IS 'How long the window is: the bucket leaves it so long after ends_at.';
COMMENT ON COLUMN afterdelete.fuse_count.ends_at IS 'When the bucket ends. All that is in it counts as of then: the fuse may blow a sixtieth of the window early, never late.';
COMMENT ON COLUMN afterdelete.fuse_count.since IS 'When the first was counted in it. What was spent before is not to be given back here: a new window had begun.';
COMMENT ON COLUMN afterdelete.fuse_count.cleanups IS 'How many were counted in it and not given back.';

CREATE FUNCTION afterdelete.fuse_bucket(moment timestamptz, span interval) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
  SELECT date_bin(span / 60, moment, timestamptz '1970-01-01 00:00:00+00') + span / 60
$$;
COMMENT ON FUNCTION afterdelete.fuse_bucket(timestamptz, interval) IS 'When the bucket ends that a moment falls into.';

-- One at a time for each store, over all daemons and until COMMIT, by an advisory lock: its roots have its pause in
-- common. The lock has a first key of its own; with the one of wake() it would have to wait for daemons that sleep.
CREATE FUNCTION afterdelete.spend(store text, roots text[], cleanups integer[], most bigint, span interval,
  OUT granted integer[], OUT moment timestamptz, OUT paused_by text, OUT reason text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  spent bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(1634104421, hashtext(spend.store));
  moment := clock_timestamp();
  granted := array_fill(0, ARRAY[cardinality(roots)]);
  DELETE FROM afterdelete.fuse_count c WHERE starts_with(c.root, spend.store || '/') AND c.ends_at <= moment - c.span;

  FOR i IN 1..cardinality(roots) LOOP
    -- By a person, or because this one or another went too far.
    EXIT WHEN EXISTS (SELECT FROM afterdelete.store_pause sp WHERE sp.store = spend.store);

    -- A length that is new here begins with what the longest one knows.
    INSERT INTO afterdelete.fuse_count (root, span, ends_at, since, cleanups)
    SELECT c.root, spend.span, c.ends_at, c.since, c.cleanups
      FROM afterdelete.fuse_count c
     WHERE c.root = roots[i] AND c.ends_at > moment - spend.span
       AND c.span = (SELECT max(o.span) FROM afterdelete.fuse_count o WHERE o.root = roots[i])
       AND NOT EXISTS (SELECT FROM afterdelete.fuse_count o WHERE o.root = roots[i] AND o.span = spend.span);

    SELECT coalesce(sum(c.cleanups), 0) INTO spent
      FROM afterdelete.fuse_count c WHERE c.root = roots[i] AND c.span = spend.span;
    granted[i] := greatest(0, least(spend.cleanups[i], most - spent));
    IF granted[i] > 0 THEN
      INSERT INTO afterdelete.fuse_count AS c (root, span, ends_at, since, cleanups)
      SELECT roots[i], s.span, afterdelete.fuse_bucket(moment, s.span), moment, granted[i]
        FROM (SELECT spend.span UNION SELECT o.span FROM afterdelete.fuse_count o WHERE o.root = roots[i]) s
      ON CONFLICT ON CONSTRAINT fuse_count_pkey DO UPDATE SET cleanups = c.cleanups + excluded.cleanups;
    END IF;

    IF granted[i] < spend.cleanups[i] THEN
      INSERT INTO afterdelete.store_pause (store, paused_by, reason)
      VALUES (spend.store, 'fuse', format('more than %s cleanups of %s within %s. Cancel what should stay, then afterdelete.resume(%L): '
                || 'a new window begins, and as many more go; to let more go at once, raise AFTERDELETE_FUSE first', most, roots[i], justify_hours(spend.span), spend.store))
      ON CONFLICT ON CONSTRAINT store_pause_pkey DO NOTHING;
      PERFORM pg_notify('afterdelete', 'pauses');
    END IF;
  END LOOP;

  SELECT sp.paused_by, sp.reason INTO paused_by, reason FROM afterdelete.store_pause sp WHERE sp.store = spend.store;
END
$$;
COMMENT ON FUNCTION afterdelete.spend(text, text[], integer[], bigint, interval) IS
  'A daemon is about to delete cleanups[i] targets of roots[i], all in one store: granted[i] of them may go, so that within span no more '
  'than most of a root do. One more pauses the store, which paused_by and reason tell; none go while it is paused.';

CREATE FUNCTION afterdelete.give_back(store text, roots text[], cleanups integer[], moment timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(1634104421, hashtext(give_back.store));
  -- From the bucket it was counted in, if that is still there: from a younger one, the fuse would blow too late.
  UPDATE afterdelete.fuse_count c SET cleanups = c.cleanups - b.cleanups
    FROM unnest(roots, give_back.cleanups) AS b (root, cleanups)
   WHERE c.root = b.root AND c.since <= give_back.moment AND c.ends_at = afterdelete.fuse_bucket(give_back.moment, c.span);
END
$$;
COMMENT ON FUNCTION afterdelete.give_back(text, text[], integer[], timestamptz) IS
  'What was spent at a moment, which spend() told, and then not deleted counts no longer.';
