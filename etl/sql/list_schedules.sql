-- What is known of the triggers of these jobs.
--   $1 jobs
SELECT job, trigger, spec FROM etl.schedule WHERE job = ANY ($1::text[])
