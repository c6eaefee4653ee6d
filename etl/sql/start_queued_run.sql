-- Start the oldest queued run of the jobs this worker knows (or one run by its id) for which there is a place, or find
-- the one that an earlier issue of this statement started although its answer was lost.
--   $1 jobs   $2 worker   $3 host   $4 pid   $5 lease in seconds   $6 runs already in hand   $7 this run only (or null), even if it is late or paused
--   $8, $9 the pool of each of the jobs (or null) and its size: as settings have it now, not when the run was queued
WITH mine AS (
    SELECT run_id
      FROM etl.run
     WHERE state = 'running' AND worker_id = $2 AND run_id <> ALL ($6::text[]::uuid[])
     LIMIT 1
), chosen AS MATERIALIZED (
    SELECT q.run_id, CASE WHEN q.slot < 0 THEN place.slot ELSE q.slot END AS slot, p.pool, seat.pool_slot
      FROM etl.run q
      JOIN unnest($1::text[], $8::text[], $9::text[]::integer[]) AS p (job, pool, size) ON p.job = q.job
      LEFT JOIN LATERAL (
          SELECT g AS slot
            FROM generate_series(0, q.places - 1) AS g
           WHERE q.slot < 0
             AND NOT EXISTS (SELECT 1 FROM etl.run a
                              WHERE a.overlap_key = q.overlap_key AND a.slot = g AND a.state IN ('queued', 'running'))
             -- there may be runs in places beyond these, see insert_run
             AND q.places > (SELECT count(*) FROM etl.run a
                              WHERE a.overlap_key = q.overlap_key AND a.slot >= 0 AND a.state IN ('queued', 'running'))
           ORDER BY g
           LIMIT 1
      ) AS place ON true
      LEFT JOIN LATERAL (
          SELECT g AS pool_slot
            FROM generate_series(1, p.size) AS g
           WHERE NOT EXISTS (SELECT 1 FROM etl.run a WHERE a.pool = p.pool AND a.pool_slot = g AND a.state = 'running')
             AND p.size > (SELECT count(*) FROM etl.run a WHERE a.pool = p.pool AND a.state = 'running')
           ORDER BY g
           LIMIT 1
      ) AS seat ON true
     WHERE q.state = 'queued' AND ($7::uuid IS NULL OR q.run_id = $7)
       AND (q.slot >= 0 OR place.slot IS NOT NULL)
       AND (p.pool IS NULL OR seat.pool_slot IS NOT NULL)
       AND ($7::uuid IS NOT NULL OR q.start_by IS NULL OR q.start_by > clock_timestamp())
       AND ($7::uuid IS NOT NULL
            OR NOT EXISTS (SELECT 1 FROM etl.job j WHERE j.job = q.job AND j.paused_at IS NOT NULL))
       AND NOT EXISTS (SELECT 1 FROM mine)
     ORDER BY q.queued_at, q.run_id
     LIMIT 1
       FOR UPDATE OF q SKIP LOCKED
), started AS (
    UPDATE etl.run r
       SET state = 'running', slot = chosen.slot, pool = chosen.pool, pool_slot = chosen.pool_slot, worker_id = $2, host = $3, pid = $4,
           started_at = clock_timestamp(), lease_until = clock_timestamp() + $5::float8 * interval '1 second'
      FROM chosen
     WHERE r.run_id = chosen.run_id AND r.state = 'queued'
 RETURNING r.*
)
SELECT * FROM started
UNION ALL
SELECT r.* FROM etl.run r JOIN mine USING (run_id)
