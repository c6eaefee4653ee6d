-- Ticks, newest first.
--   $1 job (null: all)   $2 limit
SELECT * FROM etl.tick WHERE $1::text IS NULL OR job = $1 ORDER BY scheduled_for DESC, job, trigger LIMIT $2
