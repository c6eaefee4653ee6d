-- Drop ticks of long ago.
--   $1 how long history is kept
WITH old AS MATERIALIZED (
    SELECT ctid FROM etl.tick WHERE decided_at < clock_timestamp() - $1::interval LIMIT 10000
), gone AS (
    DELETE FROM etl.tick t USING old WHERE t.ctid = old.ctid RETURNING t.job
)
SELECT count(*) >= 10000 FROM gone
