-- Workers that begin at the same time take turns; answers with the jobs that no living worker serves.
--   $1 jobs
SELECT j.job,
       EXISTS (SELECT 1
                 FROM etl.worker w
                WHERE w.stopped_at IS NULL AND w.seen_at > clock_timestamp() - w.lease AND j.job = ANY (w.jobs)) AS served
  FROM etl.job j
 WHERE j.job = ANY ($1::text[])
 ORDER BY j.job
   FOR UPDATE OF j
