-- Triggers that fire when there is nothing else to do: their job is not active and its last run ended a pause ago.
--   $1, $2, $3 jobs, triggers and definitions this process knows   $4 overlap keys   $5 pauses in seconds   $6 limit
SELECT s.job, s.trigger, clock_timestamp() AS now
  FROM etl.schedule s
  JOIN unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::float8[]) AS k (job, trigger, spec, overlap_key, pause)
    ON k.job = s.job AND k.trigger = s.trigger AND k.spec = s.spec
 WHERE NOT EXISTS (SELECT 1 FROM etl.job j WHERE j.job = s.job AND j.paused_at IS NOT NULL)
   AND NOT EXISTS (SELECT 1 FROM etl.run r WHERE r.overlap_key = k.overlap_key AND r.state IN ('queued', 'running'))
   AND coalesce((SELECT r.ended_at FROM etl.run r WHERE r.job = s.job ORDER BY r.queued_at DESC LIMIT 1)
                <= clock_timestamp() - k.pause * interval '1 second', true)
 ORDER BY s.job, s.trigger
 LIMIT $6
   FOR UPDATE OF s SKIP LOCKED
