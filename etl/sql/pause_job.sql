-- Let a job's triggers ask for nothing until further notice.
--   $1 job   $2 by whom
INSERT INTO etl.job (job, paused_at, paused_by) VALUES ($1, clock_timestamp(), $2)
    ON CONFLICT (job) DO UPDATE
   SET paused_at = coalesce(job.paused_at, EXCLUDED.paused_at), paused_by = coalesce(job.paused_by, EXCLUDED.paused_by)
RETURNING paused_at, paused_by
