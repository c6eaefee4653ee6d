-- What was to be told of jobs that have no function for it any more is settled.
--   $1 jobs
UPDATE etl.notice n
   SET settled_at = clock_timestamp()
  FROM etl.episode e
  JOIN etl.job j ON j.job = e.job
 WHERE n.episode_id = e.episode_id AND n.settled_at IS NULL AND e.job = ANY ($1::text[]) AND NOT j.tells
