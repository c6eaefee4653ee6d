-- Where a run's spans and log lines are, and how much of them could not be written.
--   $1 run
SELECT started_at AS run_at, split_part(traceparent, '-', 3) AS root_id, coalesce(spans_lost, 0) AS spans_lost,
       coalesce(lines_lost, 0) AS lines_lost
  FROM etl.run
 WHERE run_id = $1 AND started_at IS NOT NULL
