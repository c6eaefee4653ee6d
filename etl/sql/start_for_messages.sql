-- Under the lock of a trigger: start a run here for the messages that wait for it, with its tick, if nothing stands in
-- its way. No row: something does, and nothing was done.
--   $1 run   $2 job   $3 trigger   $4 overlap key   $5 places of runs that may be active at once   $6 pool   $7 its places
--   (arrays, not numbers to count up to: of these the server would expect so much that it would plan it each time)
--   $8 seconds to start within   $9 worker   $10 host   $11 pid   $12 lease in seconds   $13 jobs this worker knows
--   $14 runs already in hand
WITH clock AS MATERIALIZED (
    SELECT clock_timestamp() AS now
), place AS MATERIALIZED (
    SELECT g AS slot
      FROM unnest($5::text[]::integer[]) AS g
     WHERE NOT EXISTS (SELECT 1 FROM etl.run a
                        WHERE a.overlap_key = $4 AND a.slot = g AND a.state IN ('queued', 'running'))
       -- there may be runs in places beyond these, see insert_run
       AND cardinality($5::text[]) > (SELECT count(*) FROM etl.run a
                                       WHERE a.overlap_key = $4 AND a.slot >= 0 AND a.state IN ('queued', 'running'))
     ORDER BY g
     LIMIT 1
), seat AS MATERIALIZED (
    SELECT g AS pool_slot
      FROM unnest($7::text[]::integer[]) AS g
     WHERE NOT EXISTS (SELECT 1 FROM etl.run a WHERE a.pool = $6 AND a.pool_slot = g AND a.state = 'running')
       AND cardinality($7::text[]) > (SELECT count(*) FROM etl.run a WHERE a.pool = $6 AND a.state = 'running')
     ORDER BY g
     LIMIT 1
), started AS (
    INSERT INTO etl.run (run_id, job, trigger, overlap_key, slot, places, state, worker_id, host, pid, queued_at,
                         started_at, lease_until, pool, pool_slot, start_by, serves_messages)
    SELECT $1, $2, $3, $4, place.slot, cardinality($5::text[]::integer[]), 'running', $9, $10, $11, now,
           now, now + $12::float8 * interval '1 second', $6::text, seat.pool_slot,
           now + $8::float8 * interval '1 second', true
      FROM clock
     CROSS JOIN place
      LEFT JOIN seat ON true
     WHERE ($6 IS NULL OR seat.pool_slot IS NOT NULL)
       AND EXISTS (SELECT 1 FROM etl.message m WHERE m.job = $2 AND m.trigger = $3 AND m.run_id IS NULL)
       AND NOT EXISTS (SELECT 1 FROM etl.job j WHERE j.job = $2 AND j.paused_at IS NOT NULL)
       -- who has waited longer goes first
       AND NOT EXISTS (SELECT 1 FROM etl.run q
                        WHERE q.state = 'queued' AND (q.job = ANY ($13::text[]) OR q.overlap_key = $4))
       -- one that was started by a COMMIT whose answer was lost is driven first
       AND NOT EXISTS (SELECT 1 FROM etl.run r
                        WHERE r.state = 'running' AND r.worker_id = $9 AND r.run_id <> ALL ($14::text[]::uuid[]))
        ON CONFLICT DO NOTHING
 RETURNING *
), ticked AS (
    INSERT INTO etl.tick (job, trigger, scheduled_for, decision, run_id)
    SELECT job, trigger, queued_at, 'ran', run_id FROM started
        ON CONFLICT DO NOTHING
)
SELECT * FROM started
