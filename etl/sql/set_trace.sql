-- Note the trace a run belongs to.
--   $1 run   $2 trace
UPDATE etl.run SET trace_id = $2 WHERE run_id = $1 AND state = 'running'
