-- Drop episodes that were over long ago, with what was told of them.
--   $1 how long history is kept   $2 how many at a time
WITH old AS MATERIALIZED (
    SELECT episode_id FROM etl.episode WHERE closed_at < clock_timestamp() - $1::interval LIMIT $2::bigint
), gone AS (
    DELETE FROM etl.episode e USING old WHERE e.episode_id = old.episode_id RETURNING e.episode_id
)
SELECT count(*) AS dropped, count(*) >= $2::bigint AS more FROM gone
