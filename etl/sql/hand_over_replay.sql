-- The rest of a replay whose process died goes to the run that recovers it.
--   $1 dead run   $2 new run
UPDATE etl.row_issue SET replay_id = $2 WHERE replay_id = $1 AND state = 'open'
