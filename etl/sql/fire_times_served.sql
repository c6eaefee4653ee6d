-- The last run of each fire time of a job in a stretch of time.
--   $1 job   $2 from   $3 to (both included)
SELECT DISTINCT ON (trigger, scheduled_for) trigger, scheduled_for, run_id, state
  FROM etl.run
 WHERE job = $1 AND scheduled_for BETWEEN $2 AND $3
 ORDER BY trigger, scheduled_for, queued_at DESC
