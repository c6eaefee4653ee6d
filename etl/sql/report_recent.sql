-- How the last runs of jobs ended, newest first.
--   $1 jobs   $2 how many of each
-- Index: run_history (job, queued_at DESC)
SELECT j.job, r.state
  FROM unnest($1::text[]) AS j (job)
 CROSS JOIN LATERAL (
       SELECT state, queued_at, run_id
         FROM etl.run
        WHERE run.job = j.job
        ORDER BY queued_at DESC, run_id DESC
        LIMIT $2
 ) r
 ORDER BY j.job, r.queued_at DESC, r.run_id DESC
