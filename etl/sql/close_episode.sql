-- An episode is over, unless it is closed, or began after whoever closes it had looked; who was to be told of its
-- beginning is to be told of that.
--   $1 episode   $2 run that ended it (or null)   $3 text   $4 facts   $5 when that was looked at (null: just now)
WITH closed AS (
    UPDATE etl.episode
       SET closed_at = clock_timestamp(), closed_by = $2
     WHERE episode_id = $1 AND closed_at IS NULL AND ($5::timestamptz IS NULL OR opened_at < $5)
 RETURNING *
), told AS (
    INSERT INTO etl.notice (episode_id, recovered, at, run_id, text, facts)
    SELECT c.episode_id, true, c.closed_at, coalesce($2, c.run_id), $3::text, $4::jsonb
      FROM closed c
      JOIN etl.notice f ON f.episode_id = c.episode_id AND NOT f.recovered
)
SELECT * FROM closed
