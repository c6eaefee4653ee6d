-- Drop episodes that were over long ago, with what was told of them.
--   $1 how long history is kept
WITH old AS MATERIALIZED (
    SELECT episode_id FROM etl.episode WHERE closed_at < clock_timestamp() - $1::interval LIMIT 1000
), gone AS (
    DELETE FROM etl.episode e USING old WHERE e.episode_id = old.episode_id RETURNING e.episode_id
)
SELECT count(*) >= 1000 FROM gone
