-- Note on a queued run the span of the run that left it its work: its own will be linked to that.
--   $1 run   $2 W3C context
UPDATE etl.run SET traceparent = $2 WHERE run_id = $1 AND state = 'queued'
