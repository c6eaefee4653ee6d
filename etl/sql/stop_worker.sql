-- A worker ends.
--   $1 worker
UPDATE etl.worker SET stopped_at = clock_timestamp(), seen_at = clock_timestamp() WHERE worker_id = $1
