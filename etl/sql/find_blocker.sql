-- The active run that keeps another of its overlap key, or of its pool, from starting, and the batch it is in.
--   $1 overlap key   $2 pool (or null)
SELECT r.run_id, r.job, r.trigger, r.state, r.host, r.pid, r.started_at, r.queued_at, r.lease_until,
       r.state = 'running' AND r.lease_until < clock_timestamp() AS lost,
       clock_timestamp() - r.queued_at AS waiting,
       b.number AS batch, b.opened_at AS batch_since, r.overlap_key <> $1 AS by_pool
  FROM etl.run r
  LEFT JOIN LATERAL (
      SELECT number, opened_at FROM etl.batch WHERE batch.run_id = r.run_id AND batch.state = 'open'
       ORDER BY opened_at
       LIMIT 1
  ) AS b ON true
 WHERE r.overlap_key = $1 AND r.state IN ('queued', 'running') OR r.pool = $2 AND r.state = 'running'
 ORDER BY r.overlap_key <> $1, r.slot < 0, r.slot
 LIMIT 1
