-- Ask for a run, or start one at once; the overlap guard and the once-per-tick rule may refuse (no row).
--   $1 run   $2 job   $3 trigger   $4 scheduled for   $5 overlap key   $6 arguments   $7 row limit   $8 parent
--   $9 attempt   $10 worker (null: only queue it)   $11 host   $12 pid   $13 lease in seconds   $14 trace
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now, $10::uuid IS NOT NULL AS at_once)
INSERT INTO etl.run (run_id, job, trigger, scheduled_for, overlap_key, state, arguments, row_limit, parent_id, attempt,
                     worker_id, host, pid, queued_at, started_at, lease_until, trace_id)
SELECT $1, $2, $3, $4, $5, CASE WHEN at_once THEN 'running' ELSE 'queued' END, $6, $7, $8, $9,
       $10, $11, $12, now,
       CASE WHEN at_once THEN now END,
       CASE WHEN at_once THEN now + $13::float8 * interval '1 second' END,
       $14
  FROM clock
    ON CONFLICT DO NOTHING
RETURNING run_id
