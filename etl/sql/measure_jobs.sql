-- How jobs stand: rows in quarantine, and for how long, in seconds, no run has gone through all that was pending.
--   $1 jobs
SELECT j.job,
       (SELECT count(*) FROM etl.row_issue i WHERE i.job = j.job AND i.state = 'open') AS quarantined,
       extract(epoch FROM clock_timestamp() - coalesce(
           (SELECT r.started_at
              FROM etl.run r
             WHERE r.job = j.job AND r.state IN ('succeeded', 'partial') AND r.row_limit IS NULL
               AND r.trigger <> 'replay'
             ORDER BY r.queued_at DESC
             LIMIT 1), k.first_seen_at, clock_timestamp()))::float8 AS unswept_s
  FROM unnest($1::text[]) AS j (job)
  LEFT JOIN etl.job k ON k.job = j.job
