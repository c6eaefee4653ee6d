-- Start the oldest queued run of the jobs this worker knows (or one run by its id), or find the one that an earlier
-- issue of this statement started although its answer was lost.
--   $1 jobs   $2 worker   $3 host   $4 pid   $5 lease in seconds   $6 runs already in hand   $7 this run only (or null)
WITH mine AS (
    SELECT run_id
      FROM etl.run
     WHERE state = 'running' AND worker_id = $2 AND run_id <> ALL ($6::uuid[])
     LIMIT 1
), chosen AS MATERIALIZED (
    SELECT run_id
      FROM etl.run
     WHERE state = 'queued' AND job = ANY ($1::text[]) AND ($7::uuid IS NULL OR run_id = $7)
       AND NOT EXISTS (SELECT 1 FROM mine)
     ORDER BY queued_at, run_id
     LIMIT 1
       FOR UPDATE SKIP LOCKED
), started AS (
    UPDATE etl.run r
       SET state = 'running', worker_id = $2, host = $3, pid = $4, started_at = clock_timestamp(),
           lease_until = clock_timestamp() + $5::float8 * interval '1 second'
      FROM chosen
     WHERE r.run_id = chosen.run_id AND r.state = 'queued'
 RETURNING r.*
)
SELECT * FROM started
UNION ALL
SELECT r.* FROM etl.run r JOIN mine USING (run_id)
