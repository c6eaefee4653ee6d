-- What is known about a job and who served it at a moment.
--   $1 job   $2 the moment
SELECT j.first_seen_at, j.paused_at, j.paused_by, clock_timestamp() AS now,
       EXISTS (SELECT 1 FROM etl.worker w
                WHERE $1 = ANY (w.jobs) AND w.started_at <= $2 AND coalesce(w.stopped_at, w.seen_at + w.lease) >= $2) AS served,
       (SELECT max(coalesce(w.stopped_at, w.seen_at)) FROM etl.worker w WHERE $1 = ANY (w.jobs) AND w.started_at <= $2) AS last_seen
  FROM etl.job j
 WHERE j.job = $1
