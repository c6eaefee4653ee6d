-- What is known of the triggers of these jobs. Their rows are locked in one order, so that workers that begin at the
-- same time take turns.
--   $1 jobs
SELECT job, trigger, spec, worker_id, clock_timestamp() AS now
  FROM etl.schedule
 WHERE job = ANY ($1::text[])
 ORDER BY job, trigger
   FOR UPDATE
