-- The owner gives back what it still holds, untouched.
--   $1 run
UPDATE etl.batch SET state = 'released', ended_at = clock_timestamp() WHERE run_id = $1 AND state = 'open'
