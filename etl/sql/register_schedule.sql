-- Make a trigger known; a changed definition takes effect from now on and fires nothing old.
--   $1 job   $2 trigger   $3 definition   $4 first fire time after now
INSERT INTO etl.schedule (job, trigger, spec, next_at)
VALUES ($1, $2, $3, $4)
    ON CONFLICT (job, trigger) DO UPDATE
   SET spec = EXCLUDED.spec, next_at = EXCLUDED.next_at, changed_at = clock_timestamp()
 WHERE schedule.spec <> EXCLUDED.spec
