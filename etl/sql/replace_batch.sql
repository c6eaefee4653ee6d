-- A batch was taken over: its rows live on in other batches.
--   $1 token
UPDATE etl.batch SET state = 'replaced', ended_at = clock_timestamp() WHERE token = $1 AND state = 'expired'
