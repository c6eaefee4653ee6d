-- Episodes that are open, and those that began with a run, the oldest first.
--   $1 jobs (null: all)   $2 run (or null)
SELECT *
  FROM etl.episode
 WHERE closed_at IS NULL AND ($1::text[] IS NULL OR job = ANY ($1::text[])) OR run_id = $2
 ORDER BY opened_at, episode_id
