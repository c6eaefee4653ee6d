-- Triggers that are due by the database's clock and defined as this process knows them.
--   $1, $2, $3 jobs, triggers and definitions this process knows   $4 limit
SELECT s.job, s.trigger, s.next_at, clock_timestamp() AS now, j.paused_at, j.paused_by
  FROM etl.schedule s
  JOIN unnest($1::text[], $2::text[], $3::text[]) AS k (job, trigger, spec)
    ON k.job = s.job AND k.trigger = s.trigger AND k.spec = s.spec
  LEFT JOIN etl.job j ON j.job = s.job
 WHERE s.next_at <= clock_timestamp()
 ORDER BY s.next_at
 LIMIT $4
   FOR UPDATE OF s SKIP LOCKED
