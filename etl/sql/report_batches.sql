-- The batches of a run in its time (seconds since its start): all of them, or where there are more than $2 the $3 that
-- took longest. `busy_s` is the time of all batches added up. One that was taken over ends with its run.
--   $1 run   $2 most to show   $3 how many of more
WITH timed AS (
    SELECT b.number, b.state, b.claimed, b.written, b.quarantined, b.retried, b.crashes, b.replay,
           greatest(0, extract(epoch FROM b.opened_at - r.started_at))::float8 AS start_s,
           extract(epoch FROM least(coalesce(b.ended_at, clock_timestamp()), coalesce(r.ended_at, clock_timestamp()))
                              - r.started_at)::float8 AS end_s
      FROM etl.run r
      JOIN etl.batch b ON b.run_id = r.run_id
     WHERE r.run_id = $1 AND r.started_at IS NOT NULL
), ranked AS (
    SELECT *, row_number() OVER (ORDER BY end_s - start_s DESC, number) AS place, count(*) OVER () AS total,
           sum(greatest(0, end_s - start_s)) OVER () AS busy_s
      FROM timed
)
SELECT *
  FROM ranked
 WHERE total <= $2::bigint OR place <= $3::bigint
 ORDER BY start_s, number
