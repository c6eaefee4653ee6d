-- Drop messages whose run is not in the history any more, and those of triggers that nobody has had for so long.
--   $1 how long history is kept   $2 how many rows at a time
WITH gone AS (
    DELETE FROM etl.message m
     WHERE m.message_id IN (
           SELECT message_id
             FROM etl.message o
            WHERE o.published_at < clock_timestamp() - $1::interval
              AND (o.run_id IS NULL
                   AND NOT EXISTS (SELECT 1 FROM etl.schedule s WHERE s.job = o.job AND s.trigger = o.trigger)
                   OR o.run_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM etl.run r WHERE r.run_id = o.run_id))
            LIMIT $2)
 RETURNING m.message_id
)
SELECT count(*) AS dropped, count(*) >= $2::bigint AS more FROM gone
