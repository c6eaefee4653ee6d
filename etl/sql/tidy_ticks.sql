-- Drop ticks of long ago.
--   $1 how long history is kept   $2 how many rows at a time
WITH old AS MATERIALIZED (
    SELECT ctid FROM etl.tick WHERE decided_at < clock_timestamp() - $1::interval LIMIT $2
), gone AS (
    DELETE FROM etl.tick t USING old WHERE t.ctid = old.ctid RETURNING t.job
)
SELECT count(*) AS dropped, count(*) >= $2::bigint AS more FROM gone
