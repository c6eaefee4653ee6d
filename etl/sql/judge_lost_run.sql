-- Under the lock of the statement before: is the lease really over, and is no batch of the run being completed now?
--   $1 run
WITH free AS MATERIALIZED (
    SELECT token FROM etl.batch WHERE run_id = $1 AND state = 'open' FOR UPDATE SKIP LOCKED
)
SELECT r.job, r.trigger, r.scheduled_for, r.overlap_key, r.attempt, r.arguments, r.host, r.pid, r.started_at,
       r.lease_until, r.trace_id,
       r.lease_until < clock_timestamp()
           AND (SELECT count(*) FROM free)
             = (SELECT count(*) FROM etl.batch b WHERE b.run_id = $1 AND b.state = 'open') AS lost
  FROM etl.run r
 WHERE r.run_id = $1
