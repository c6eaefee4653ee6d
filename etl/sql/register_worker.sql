-- A worker begins.
--   $1 worker   $2 host   $3 pid   $4 jobs   $5 lease in seconds
INSERT INTO etl.worker (worker_id, host, pid, jobs, lease)
VALUES ($1, $2, $3, $4, $5::float8 * interval '1 second')
    ON CONFLICT (worker_id) DO UPDATE SET seen_at = clock_timestamp(), stopped_at = NULL
