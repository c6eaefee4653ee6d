-- The finished runs of the same job that were asked for before this one, newest first.
--   $1 run   $2 limit
-- Index: run_history (job, queued_at DESC)
SELECT f.*
  FROM etl.run r
  JOIN etl.run_view f ON f.job = r.job AND f.queued_at < r.queued_at
 WHERE r.run_id = $1
   AND f.ended_at IS NOT NULL
 ORDER BY f.queued_at DESC
 LIMIT $2
