-- The run must be running and this worker's; shared, so that whoever ends it waits for the transaction.
--   $1 run   $2 worker
SELECT run_id FROM etl.run WHERE run_id = $1 AND worker_id = $2 AND state = 'running' FOR SHARE
