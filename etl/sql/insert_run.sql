-- Ask for a run, or start one at once; the overlap guard, the pool and the once-per-tick rule may refuse (no row).
--   $1 run   $2 job   $3 trigger   $4 scheduled for   $5 overlap key   $6 arguments   $7 row limit   $8 parent
--   $9 attempt   $10 worker (null: only queue it)   $11 host   $12 pid   $13 lease in seconds
--   $14 places, the one liked best first (below 0: waiting)   $15 runs that may be active at once
--   $16 whether it goes before those that wait   $17 pool   $18 size of the pool   $19 seconds to start within
--   $20 whether it serves messages
WITH clock AS MATERIALIZED (
    SELECT clock_timestamp() AS now, $10::uuid IS NOT NULL AS at_once
), place AS MATERIALIZED (
    SELECT c.slot
      FROM unnest($14::text[]::integer[]) WITH ORDINALITY AS c (slot, preference)
     WHERE NOT EXISTS (SELECT 1 FROM etl.run a
                        WHERE a.overlap_key = $5 AND a.slot = c.slot AND a.state IN ('queued', 'running'))
       AND (c.slot < 0 OR $16
            OR NOT EXISTS (SELECT 1 FROM etl.run a
                            WHERE a.overlap_key = $5 AND a.slot < 0 AND a.state = 'queued')
               -- a run asked for by somebody who allows more at once may have a place beyond these
               AND $15 > (SELECT count(*) FROM etl.run a
                           WHERE a.overlap_key = $5 AND a.slot >= 0 AND a.state IN ('queued', 'running')))
     ORDER BY c.preference
     LIMIT 1
), seat AS MATERIALIZED (
    SELECT g AS pool_slot
      FROM generate_series(1, $18::integer) AS g
     WHERE NOT EXISTS (SELECT 1 FROM etl.run a WHERE a.pool = $17 AND a.pool_slot = g AND a.state = 'running')
       -- runs begun when the pool was larger may have places beyond its size
       AND $18::integer > (SELECT count(*) FROM etl.run a WHERE a.pool = $17 AND a.state = 'running')
     ORDER BY g
     LIMIT 1
)
INSERT INTO etl.run (run_id, job, trigger, scheduled_for, overlap_key, slot, places, state, arguments, row_limit,
                     parent_id, attempt, worker_id, host, pid, queued_at, started_at, lease_until, pool, pool_slot,
                     start_by, serves_messages)
SELECT $1, $2, $3, $4, $5, place.slot, $15, CASE WHEN at_once THEN 'running' ELSE 'queued' END, $6, $7,
       $8, $9, $10, $11, $12, now,
       CASE WHEN at_once THEN now END,
       CASE WHEN at_once THEN now + $13::float8 * interval '1 second' END,
       $17::text, CASE WHEN at_once THEN seat.pool_slot END,
       now + $19::float8 * interval '1 second', $20
  FROM clock
 CROSS JOIN place
  LEFT JOIN seat ON true
 WHERE NOT at_once OR $17 IS NULL OR seat.pool_slot IS NOT NULL
    ON CONFLICT DO NOTHING
RETURNING slot
