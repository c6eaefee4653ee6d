-- What a run completed in each of so many equal parts of its time; parts without a batch are left out.
--   $1 run   $2 parts
WITH span AS (
    SELECT run_id, extract(epoch FROM started_at)::float8 AS start,
           greatest(extract(epoch FROM coalesce(ended_at, clock_timestamp()))::float8,
                    extract(epoch FROM started_at)::float8 + 0.001) AS finish
      FROM etl.run
     WHERE run_id = $1 AND started_at IS NOT NULL
)
SELECT least($2::int, greatest(1, width_bucket(extract(epoch FROM b.ended_at)::float8, s.start, s.finish, $2::int))) AS part,
       s.finish - s.start AS seconds, count(*) AS batches, sum(b.quarantined)::bigint AS quarantined,
       sum(b.written + b.filtered + b.quarantined)::bigint AS rows
  FROM span s
  JOIN etl.batch b ON b.run_id = s.run_id AND b.state = 'done'
 GROUP BY part, seconds
 ORDER BY part
