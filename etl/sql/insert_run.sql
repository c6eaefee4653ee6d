-- Ask for a run, or start one at once; the overlap guard and the once-per-tick rule may refuse (no row).
--   $1 run   $2 job   $3 trigger   $4 scheduled for   $5 overlap key   $6 arguments   $7 row limit   $8 parent
--   $9 attempt   $10 worker (null: only queue it)   $11 host   $12 pid   $13 lease in seconds   $14 trace
INSERT INTO etl.run (run_id, job, trigger, scheduled_for, overlap_key, state, arguments, row_limit, parent_id, attempt,
                     worker_id, host, pid, started_at, lease_until, trace_id)
SELECT $1, $2, $3, $4, $5, CASE WHEN $10::uuid IS NULL THEN 'queued' ELSE 'running' END, $6, $7, $8, $9,
       $10, $11, $12,
       CASE WHEN $10::uuid IS NOT NULL THEN clock_timestamp() END,
       CASE WHEN $10::uuid IS NOT NULL THEN clock_timestamp() + $13::float8 * interval '1 second' END,
       $14
    ON CONFLICT DO NOTHING
RETURNING run_id
