-- Note what a run has before it.
--   $1 run   $2 pending rows   $3 whether they were counted   $4 since when the oldest of them waits, where that is known
UPDATE etl.run
   SET backlog_before = $2, backlog_before_exact = $3, oldest_before = $4
 WHERE run_id = $1 AND state = 'running'
