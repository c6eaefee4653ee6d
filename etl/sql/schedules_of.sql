-- The triggers of a job as they are stored.
--   $1 job
SELECT trigger, spec, next_at, created_at, changed_at FROM etl.schedule WHERE job = $1 ORDER BY trigger
