-- Drop what is known of workers that were last seen long ago.
--   $1 how long history is kept
WITH gone AS (
    DELETE FROM etl.worker WHERE seen_at < clock_timestamp() - $1::interval RETURNING worker_id
)
SELECT false FROM gone LIMIT 1
