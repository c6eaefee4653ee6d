-- Make triggers known; a changed definition takes effect from now on and fires nothing old.
--   $1 jobs   $2 triggers   $3 definitions   $4 first fire times from now on   $5 worker
INSERT INTO etl.schedule (job, trigger, spec, next_at, worker_id)
SELECT q.job, q.trigger, q.spec, q.next_at, $5
  FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) AS q (job, trigger, spec, next_at)
 ORDER BY q.job, q.trigger
    ON CONFLICT (job, trigger) DO UPDATE
   SET spec = EXCLUDED.spec, next_at = EXCLUDED.next_at, worker_id = EXCLUDED.worker_id,
       changed_at = clock_timestamp()
 WHERE schedule.spec <> EXCLUDED.spec
