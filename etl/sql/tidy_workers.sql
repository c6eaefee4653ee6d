-- Drop what is known of workers that were last seen long ago.
--   $1 how long history is kept   $2 how many rows at a time
WITH gone AS (
    DELETE FROM etl.worker
     WHERE worker_id = ANY (ARRAY(
           SELECT w.worker_id FROM etl.worker w WHERE w.seen_at < clock_timestamp() - $1::interval LIMIT $2))
 RETURNING worker_id
)
SELECT count(*) AS dropped, count(*) >= $2::bigint AS more FROM gone
