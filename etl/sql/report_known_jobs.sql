-- The jobs that have runs. Jumps from one to the next in the index, however many runs there are.
-- Index: run_history (job, queued_at DESC)
WITH RECURSIVE found AS (
    SELECT min(job) AS job FROM etl.run
    UNION ALL
    SELECT (SELECT min(r.job) FROM etl.run r WHERE r.job > f.job) FROM found f WHERE f.job IS NOT NULL
)
SELECT job FROM found WHERE job IS NOT NULL ORDER BY job
