-- Drop batches that no run holds any more: what was left of a batch that was taken over in pieces, and has been taken since.
--   $1 how long history is kept   $2 how many rows at a time
-- Index: batch_of_run (run_id)
WITH gone AS (
    DELETE FROM etl.batch
     WHERE token = ANY (ARRAY(
           SELECT b.token
             FROM etl.batch b
            WHERE b.run_id IS NULL AND b.ended_at < clock_timestamp() - $1::interval
            LIMIT $2))
 RETURNING token
)
SELECT count(*) AS dropped, count(*) >= $2::bigint AS more FROM gone
