-- Which jobs are to be told of their events. What another living worker says of a job that this one is silent about
-- stays.
--   $1 jobs   $2 whether each tells   $3 this worker (null: a run by hand)
INSERT INTO etl.job (job, tells)
SELECT j.job, j.tells
  FROM unnest($1::text[], $2::boolean[]) AS j (job, tells)
 ORDER BY j.job
    ON CONFLICT (job) DO UPDATE SET tells = excluded.tells
 WHERE job.tells IS DISTINCT FROM excluded.tells
   AND (excluded.tells OR NOT EXISTS (
       SELECT 1
         FROM etl.worker w
        WHERE w.worker_id IS DISTINCT FROM $3 AND w.stopped_at IS NULL AND w.seen_at > clock_timestamp() - w.lease
          AND job.job = ANY (w.jobs)))
