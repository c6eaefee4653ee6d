-- Make a trigger known; a changed definition takes effect from now on and fires nothing old.
--   $1 job   $2 trigger   $3 definition   $4 first fire time after now
-- ON CONFLICT locks the row it finds: one that is known as it is must not wait for whoever decides about it just now.
INSERT INTO etl.schedule (job, trigger, spec, next_at)
SELECT $1, $2, $3, $4
 WHERE NOT EXISTS (SELECT 1 FROM etl.schedule s WHERE s.job = $1 AND s.trigger = $2 AND s.spec = $3)
    ON CONFLICT (job, trigger) DO UPDATE
   SET spec = EXCLUDED.spec, next_at = EXCLUDED.next_at, changed_at = clock_timestamp()
 WHERE schedule.spec <> EXCLUDED.spec
