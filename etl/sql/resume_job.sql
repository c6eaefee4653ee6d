-- Let a paused job's triggers ask for runs again.
--   $1 job
WITH former AS (
    SELECT job, paused_at FROM etl.job WHERE job = $1 FOR UPDATE
), resumed AS (
    UPDATE etl.job SET paused_at = NULL, paused_by = NULL WHERE job = $1 AND paused_at IS NOT NULL
)
SELECT paused_at, pg_notify('etl', '') FROM former
