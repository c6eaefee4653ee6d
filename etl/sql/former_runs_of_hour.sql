-- The finished runs of the same job that were asked for before this one, newest first: the last ones, and those of the
-- same hour and weekday (in a time zone) during the twelve weeks before it.
--   $1 run   $2 time zone   $3 how many of the last ones   $4 how many of the hour
-- Index: run_history (job, queued_at DESC)
WITH this AS MATERIALIZED (
    SELECT run_id, job, queued_at, coalesce(scheduled_for, started_at) AT TIME ZONE $2::text AS moment
      FROM etl.run
     WHERE run_id = $1
), last AS (
    SELECT f.*
      FROM this t
      JOIN etl.run f ON f.job = t.job AND f.queued_at < t.queued_at
     WHERE f.ended_at IS NOT NULL
     ORDER BY f.queued_at DESC
     LIMIT $3
), alike AS (
    SELECT f.*
      FROM this t
      JOIN etl.run f ON f.job = t.job AND f.queued_at < t.queued_at AND f.queued_at > t.queued_at - interval '12 weeks'
     WHERE f.ended_at IS NOT NULL
       AND extract(isodow FROM coalesce(f.scheduled_for, f.started_at) AT TIME ZONE $2::text)
         = extract(isodow FROM t.moment)
       AND extract(hour FROM coalesce(f.scheduled_for, f.started_at) AT TIME ZONE $2::text)
         = extract(hour FROM t.moment)
     ORDER BY f.queued_at DESC
     LIMIT $4
)
SELECT * FROM last
 UNION
SELECT * FROM alike
 ORDER BY queued_at DESC
