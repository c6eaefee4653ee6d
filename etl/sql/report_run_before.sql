-- The newest finished run with rows of the same job that was asked for before this one -> run_id, or no row. A run
-- without rows has no rate, no stages and no errors to set beside those of another.
--   $1 run
-- Index: run_history (job, queued_at DESC)
SELECT f.run_id
  FROM etl.run r
  JOIN etl.run f ON f.job = r.job AND f.queued_at < r.queued_at
 WHERE r.run_id = $1
   AND f.ended_at IS NOT NULL
   AND f.claimed > 0
 ORDER BY f.queued_at DESC
 LIMIT 1
