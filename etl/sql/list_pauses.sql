-- The jobs whose triggers ask for nothing until they are resumed -> job, paused_at, paused_by.
SELECT job, paused_at, paused_by FROM etl.job WHERE paused_at IS NOT NULL
