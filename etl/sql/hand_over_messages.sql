-- The messages of a run go to the run that follows it, or (null) back to wait.
--   $1 run   $2 its successor, or null
UPDATE etl.message SET run_id = $2 WHERE run_id = $1
