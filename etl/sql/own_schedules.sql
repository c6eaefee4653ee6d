-- Note who served these jobs' triggers last.
--   $1 jobs   $2 worker
UPDATE etl.schedule SET worker_id = $2 WHERE job = ANY ($1::text[]) AND worker_id IS DISTINCT FROM $2
