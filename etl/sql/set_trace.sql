-- Note the trace a run belongs to, and by what code it is. Without waiting for the disk: the run's first claim waits for
-- this row, and its COMMIT makes both last.
--   $1 run   $2 trace   $3 W3C context of the run's own span   $4 parent of that   $5 version of the code
UPDATE etl.run
   SET trace_id = $2, traceparent = $3, parent_span_id = $4, code_version = $5
  FROM (SELECT set_config('synchronous_commit', 'off', true)) AS briefly
 WHERE run_id = $1 AND state = 'running'
