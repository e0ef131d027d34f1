-- What people and Prometheus look at.

-- The planner knows from samples, and from the size of the files, how many rows there are about.
CREATE FUNCTION afterdelete.estimated_pending(store text, waiting boolean) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  plan json;
BEGIN
  EXECUTE format('EXPLAIN (FORMAT JSON) SELECT FROM afterdelete.pending_file_cleanup p WHERE p.store = %L AND p.due_at %s statement_timestamp()',
                 store, CASE WHEN waiting THEN '>' ELSE '<=' END) INTO plan;
  RETURN (plan -> 0 -> 'Plan' ->> 'Plan Rows')::numeric::bigint;
END
$$;
COMMENT ON FUNCTION afterdelete.estimated_pending(text, boolean) IS 'About how many rows of a store are due, or (waiting) not yet; costs the same however many there are.';

CREATE VIEW afterdelete.backlog AS
WITH RECURSIVE waiting (store) AS (
  -- One step a store through the index, however many rows there are.
  (SELECT p.store FROM afterdelete.pending_file_cleanup p ORDER BY p.store LIMIT 1)
  UNION ALL
  SELECT (SELECT p.store FROM afterdelete.pending_file_cleanup p WHERE p.store > w.store ORDER BY p.store LIMIT 1)
    FROM waiting w WHERE w.store IS NOT NULL
), known (store) AS (
  SELECT w.store FROM waiting w WHERE w.store IS NOT NULL
  UNION SELECT r.store FROM afterdelete.running_file_cleanup r
  UNION SELECT d.store FROM afterdelete.dead_file_cleanup d
  UNION SELECT sp.store FROM afterdelete.store_pause sp
  UNION SELECT s.store FROM afterdelete.worker w CROSS JOIN unnest(w.stores) AS s (store)
)
SELECT k.store,
       p.due + p.delayed + p.retrying AS pending,
       p.due, p.delayed, p.retrying,
       r.running, d.dead,
       least(p.oldest_due_at, r.oldest_due_at) AS oldest_due_at,
       -- least and greatest pass NULLs over: nothing due is NULL, not 0.
       extract(epoch FROM statement_timestamp() - least(p.oldest_due_at, r.oldest_due_at))::double precision AS oldest_due_seconds,
       EXISTS (SELECT FROM afterdelete.store_pause sp WHERE sp.store = k.store)
         OR coalesce((SELECT bool_and(EXISTS (SELECT FROM afterdelete.worker_pause wp WHERE wp.worker = w.id AND wp.store = k.store))
                        FROM afterdelete.worker w WHERE k.store = ANY (w.stores) AND afterdelete.lease_end(w) > statement_timestamp()), false) AS paused,
       EXISTS (SELECT FROM afterdelete.worker w WHERE k.store = ANY (w.stores) AND afterdelete.lease_end(w) > statement_timestamp()) AS served,
       p.estimated OR d.dead > 100000 AS estimated
  FROM known k
 CROSS JOIN LATERAL (
   -- Counted up to 100,000 by the index. Beyond, the planner's estimate.
   SELECT CASE WHEN c.due > 100000 THEN greatest(c.due, afterdelete.estimated_pending(k.store, false)) ELSE c.due END AS due,
          (c.delayed * c.share)::bigint AS delayed, (c.retrying * c.share)::bigint AS retrying,
          c.due > 100000 OR c.waiting > 100000 AS estimated,
          least((SELECT min(q.due_at) FROM afterdelete.pending_file_cleanup q WHERE q.store = k.store AND q.due_at <= statement_timestamp()),
                (SELECT min(q.first_due_at) FROM afterdelete.pending_file_cleanup q WHERE q.store = k.store AND q.first_due_at IS NOT NULL)) AS oldest_due_at
     FROM (SELECT (SELECT count(*) FROM (SELECT FROM afterdelete.pending_file_cleanup q
                                          WHERE q.store = k.store AND q.due_at <= statement_timestamp() LIMIT 100001) x) AS due,
                  w.delayed, w.retrying, w.waiting,
                  CASE WHEN w.waiting > 100000 THEN greatest(1, afterdelete.estimated_pending(k.store, true)::double precision / w.waiting) ELSE 1 END AS share
             FROM (SELECT count(*) AS waiting,
                          count(*) FILTER (WHERE x.attempt = 0 AND x.put_back IS NULL) AS delayed,
                          count(*) FILTER (WHERE x.attempt > 0 OR x.put_back IS NOT NULL) AS retrying
                     FROM (SELECT q.attempt, q.put_back FROM afterdelete.pending_file_cleanup q
                            WHERE q.store = k.store AND q.due_at > statement_timestamp() LIMIT 100001) x) w) c) p
 CROSS JOIN LATERAL (
   SELECT count(*) AS running, min(q.first_due_at) AS oldest_due_at
     FROM afterdelete.running_file_cleanup q WHERE q.store = k.store) r
 CROSS JOIN LATERAL (
   SELECT count(*) AS dead FROM (SELECT FROM afterdelete.dead_file_cleanup q WHERE q.store = k.store LIMIT 100001) x) d;

COMMENT ON VIEW afterdelete.backlog IS 'How much waits, one row a store.';
COMMENT ON COLUMN afterdelete.backlog.store IS 'Scheme and authority, e.g. file:// or s3://bucket.';
COMMENT ON COLUMN afterdelete.backlog.running IS 'In the hands of a worker.';
COMMENT ON COLUMN afterdelete.backlog.dead IS 'Given up: afterdelete.stuck says why.';
COMMENT ON COLUMN afterdelete.backlog.oldest_due_seconds IS 'Seconds since then; NULL when nothing is due.';
COMMENT ON COLUMN afterdelete.backlog.pending IS 'due + delayed + retrying.';
COMMENT ON COLUMN afterdelete.backlog.due IS 'May be claimed now.';
COMMENT ON COLUMN afterdelete.backlog.delayed IS 'Not yet due for the first time.';
COMMENT ON COLUMN afterdelete.backlog.retrying IS 'Waits after an attempt, or is blocked.';
COMMENT ON COLUMN afterdelete.backlog.oldest_due_at IS 'When the oldest row was first due; retrying and running ones included.';
COMMENT ON COLUMN afterdelete.backlog.paused IS 'Paused by an operator or a fuse, or by every live worker that serves it.';
COMMENT ON COLUMN afterdelete.backlog.served IS 'Whether a live worker serves the store.';
COMMENT ON COLUMN afterdelete.backlog.estimated IS 'Whether some counts are estimates: above 100,000 rows nobody counts. dead then says 100,001.';

CREATE VIEW afterdelete.stuck AS
WITH live AS (
  SELECT w.* FROM afterdelete.worker w WHERE afterdelete.lease_end(w) > statement_timestamp()
), pause (store, down, reason) AS (
  SELECT sp.store, false, 'paused by ' || sp.paused_by || ' since ' || date_trunc('second', sp.paused_at) || coalesce(': ' || sp.reason, '')
         -- A fuse says by itself what to do.
         || CASE sp.paused_by WHEN 'fuse' THEN '' ELSE '; afterdelete.resume(' || quote_literal(sp.store) || ') ends it' END
    FROM afterdelete.store_pause sp
  UNION ALL
  SELECT wp.store, true, min('paused by ' || wp.paused_by || ' since ' || date_trunc('second', wp.paused_at) || ' on ' || l.name || ': ' || wp.reason)
    FROM afterdelete.worker_pause wp JOIN live l ON l.id = wp.worker
   WHERE NOT EXISTS (SELECT FROM afterdelete.store_pause sp WHERE sp.store = wp.store)
   GROUP BY wp.store
  -- Another worker may still serve it.
  HAVING count(*) = (SELECT count(*) FROM live o WHERE wp.store = ANY (o.stores))
)
SELECT d.id, 'dead' AS state, 'dead' AS reason, d.store, d.target::text AS target, d.attempt,
       statement_timestamp() - coalesce(d.first_due_at, d.created_at) AS age,
       NULL::timestamptz AS next_attempt_at, d.worker, d.last_error, d.source, d.actor
  FROM afterdelete.dead_file_cleanup d
UNION ALL
SELECT p.id, 'pending', why.reason, p.store, p.target::text, p.attempt,
       statement_timestamp() - coalesce(p.first_due_at, p.due_at), p.due_at, NULL,
       CASE why.reason
         WHEN 'unserved' THEN 'no live daemon serves ' || p.store || ': start one with a root in it' || coalesce('; last error: ' || p.last_error, '')
         -- Where the storage is down, the reason is the last error.
         WHEN 'paused' THEN pause.reason || CASE WHEN NOT pause.down THEN coalesce('; last error: ' || p.last_error, '') ELSE '' END
         WHEN 'overdue' THEN coalesce(p.last_error, 'due for more than 15 minutes: the daemons that serve ' || p.store || ' do not keep up')
         ELSE coalesce(p.last_error, why.reason)
       END,
       p.source, p.actor
  FROM afterdelete.pending_file_cleanup p
  LEFT JOIN pause ON pause.store = p.store
 CROSS JOIN LATERAL (
   SELECT CASE
     WHEN (p.due_at <= statement_timestamp() OR p.first_due_at IS NOT NULL)
          AND NOT EXISTS (SELECT FROM live l WHERE p.store = ANY (l.stores)) THEN 'unserved'
     WHEN (p.due_at <= statement_timestamp() OR p.first_due_at IS NOT NULL) AND pause.reason IS NOT NULL THEN 'paused'
     WHEN p.put_back = 'blocked' THEN 'blocked'
     WHEN p.lost >= 3 THEN 'lost'
     WHEN p.attempt >= 3 THEN 'retrying'
     WHEN coalesce(p.first_due_at, p.due_at) <= statement_timestamp() - interval '15 minutes' THEN 'overdue'
   END) AS why (reason)
 WHERE why.reason IS NOT NULL
UNION ALL
SELECT r.id, 'running', why.reason, r.store, r.target::text, r.attempt,
       statement_timestamp() - r.first_due_at, NULL, l.name,
       CASE why.reason
         WHEN 'lost' THEN CASE
           WHEN afterdelete.lease_end(l) > statement_timestamp() THEN 'runs alone, because ' || r.lost || ' workers vanished with it in hand'
           ELSE 'its worker has missed its heartbeats, and its lease has ended: another worker takes the row over'
         END || coalesce('; last error: ' || r.last_error, '')
         WHEN 'overdue' THEN coalesce(r.last_error, 'in hand since ' || date_trunc('second', r.claimed_at) || ', first due more than 15 minutes ago')
         ELSE coalesce(r.last_error, why.reason)
       END,
       r.source, r.actor
  FROM afterdelete.running_file_cleanup r
  LEFT JOIN afterdelete.worker l ON l.id = r.worker
 CROSS JOIN LATERAL (
   SELECT CASE
     WHEN l.id IS NULL OR afterdelete.lease_end(l) <= statement_timestamp() OR r.lost >= 3 THEN 'lost'
     WHEN r.attempt >= 3 THEN 'retrying'
     WHEN r.first_due_at <= statement_timestamp() - interval '15 minutes' THEN 'overdue'
   END) AS why (reason)
 WHERE why.reason IS NOT NULL;

COMMENT ON VIEW afterdelete.stuck IS
  'Every row a person should look at, and why. dead: given up; afterdelete.retry(id) or afterdelete.discard(id). retrying: from the third '
  'attempt. blocked: not now, no fault of its own. overdue: due for 15 minutes. lost: its worker vanished. unserved: no live daemon has a '
  'root in its store. paused: its store is.';
COMMENT ON COLUMN afterdelete.stuck.age IS 'Since it was first due.';
COMMENT ON COLUMN afterdelete.stuck.id IS 'Number of the cleanup.';
COMMENT ON COLUMN afterdelete.stuck.state IS 'pending, running or dead.';
COMMENT ON COLUMN afterdelete.stuck.reason IS 'dead, retrying, blocked, overdue, lost, unserved or paused.';
COMMENT ON COLUMN afterdelete.stuck.store IS 'Scheme and authority of the target.';
COMMENT ON COLUMN afterdelete.stuck.target IS 'What is to be deleted.';
COMMENT ON COLUMN afterdelete.stuck.attempt IS 'Tries so far that failed.';
COMMENT ON COLUMN afterdelete.stuck.worker IS 'Name of the worker that has it in hand, or gave it up.';
COMMENT ON COLUMN afterdelete.stuck.source IS 'Free text: why.';
COMMENT ON COLUMN afterdelete.stuck.actor IS 'Who asked for it.';
COMMENT ON COLUMN afterdelete.stuck.next_attempt_at IS 'When it will be tried again.';
COMMENT ON COLUMN afterdelete.stuck.last_error IS 'Why, in words.';
