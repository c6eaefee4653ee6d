-- Triggers with messages that wait and no queued run that will take them, as this process knows them. Locked, so that
-- one process at a time asks for their runs.
--   $1, $2, $3 jobs, triggers and definitions this process knows   $4 limit
SELECT s.job, s.trigger
  FROM etl.schedule s
  JOIN unnest($1::text[], $2::text[], $3::text[]) AS k (job, trigger, spec)
    ON k.job = s.job AND k.trigger = s.trigger AND k.spec = s.spec
 WHERE EXISTS (SELECT 1 FROM etl.message m WHERE m.job = s.job AND m.trigger = s.trigger AND m.run_id IS NULL)
   AND NOT EXISTS (SELECT 1 FROM etl.job j WHERE j.job = s.job AND j.paused_at IS NOT NULL)
 ORDER BY s.job, s.trigger
 LIMIT $4
   FOR UPDATE OF s SKIP LOCKED
