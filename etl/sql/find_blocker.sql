-- The active run that holds an overlap slot.
--   $1 overlap key
SELECT run_id, job, trigger, state, host, pid, started_at, queued_at, lease_until,
       state = 'running' AND lease_until < clock_timestamp() AS lost,
       clock_timestamp() - queued_at AS waiting
  FROM etl.run
 WHERE overlap_key = $1 AND state IN ('queued', 'running')
 ORDER BY slot
 LIMIT 1
