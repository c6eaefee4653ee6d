-- Take what is to be told of some jobs, for a while: the oldest of each job, and the end of an episode only when its
-- beginning was told. One that was tried too often is settled by whoever looks next.
--   $1 jobs   $2 for how long, in seconds   $3 how often it is tried
WITH due AS MATERIALIZED (
    SELECT n.episode_id, n.recovered
      FROM (SELECT DISTINCT ON (e.job) n.episode_id, n.recovered
              FROM etl.notice n
              JOIN etl.episode e ON e.episode_id = n.episode_id
             WHERE n.settled_at IS NULL AND n.due_at <= clock_timestamp() AND e.job = ANY ($1::text[])
               AND NOT (n.recovered AND EXISTS (
                   SELECT 1
                     FROM etl.notice f
                    WHERE f.episode_id = n.episode_id AND NOT f.recovered AND f.settled_at IS NULL))
             ORDER BY e.job, n.at, n.episode_id) AS first
      JOIN etl.notice n ON n.episode_id = first.episode_id AND n.recovered = first.recovered
     WHERE n.settled_at IS NULL AND n.due_at <= clock_timestamp()
       FOR UPDATE OF n SKIP LOCKED
)
UPDATE etl.notice n
   SET attempts = n.attempts + 1,
       due_at = clock_timestamp() + $2::float8 * interval '1 second',
       settled_at = CASE WHEN n.attempts >= $3 THEN clock_timestamp() END
  FROM due d
  JOIN etl.episode e ON e.episode_id = d.episode_id
 WHERE n.episode_id = d.episode_id AND n.recovered = d.recovered
RETURNING n.*, e.job, e.kind
