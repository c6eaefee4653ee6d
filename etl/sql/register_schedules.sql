-- Make triggers known that are new or changed; they take effect from now on and fire nothing old. One that is known as
-- it is must not be among them: it would wait for whoever decides about it just now.
--   $1 jobs   $2 triggers   $3 definitions   $4 first fire times from now on
INSERT INTO etl.schedule (job, trigger, spec, next_at)
SELECT q.job, q.trigger, q.spec, q.next_at
  FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[]) AS q (job, trigger, spec, next_at)
 ORDER BY q.job, q.trigger
    ON CONFLICT (job, trigger) DO UPDATE
   SET spec = EXCLUDED.spec, next_at = EXCLUDED.next_at, changed_at = clock_timestamp()
 WHERE schedule.spec <> EXCLUDED.spec
