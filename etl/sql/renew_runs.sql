-- Renew the leases of this process's runs; answer with the state of each. A worker is seen by this as well.
--   $1 worker   $2 lease in seconds   $3 runs the process believes to have
-- SKIP LOCKED: a run inside its own claim or its own end is locked for milliseconds and must not hold up the heartbeat.
WITH held AS MATERIALIZED (
    SELECT run_id
      FROM etl.run
     WHERE run_id = ANY ($3::text[]::uuid[]) AND worker_id = $1 AND state = 'running'
     ORDER BY run_id
       FOR NO KEY UPDATE SKIP LOCKED
), renewed AS (
    UPDATE etl.run r
       SET lease_until = clock_timestamp() + $2::float8 * interval '1 second'
      FROM held
     WHERE r.run_id = held.run_id
 RETURNING r.run_id
), seen AS (
    UPDATE etl.worker SET seen_at = clock_timestamp() WHERE worker_id = $1
)
SELECT r.run_id, r.state = 'running' AND r.worker_id = $1 AS alive, n.run_id IS NOT NULL AS renewed, r.cancel_reason
  FROM etl.run r
  LEFT JOIN renewed n USING (run_id)
 WHERE r.run_id = ANY ($3::text[]::uuid[])
