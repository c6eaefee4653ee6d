-- Runs of a job for fire times in a stretch of time, the last of each, and idle ones folded over it.
--   $1 job   $2 from (included)   $3 to (left out)
SELECT DISTINCT ON (trigger, scheduled_for) *
  FROM etl.run_view
 WHERE job = $1
   AND (scheduled_for >= $2 AND scheduled_for < $3 OR idle_runs > 0 AND idle_since <= $3 AND started_at >= $2)
 ORDER BY trigger, scheduled_for, queued_at DESC
