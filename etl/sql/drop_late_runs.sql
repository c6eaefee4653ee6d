-- Queued runs that could not start in time end here, and their ticks say so.
WITH late AS MATERIALIZED (
    SELECT run_id
      FROM etl.run
     WHERE state = 'queued' AND start_by <= clock_timestamp()
     ORDER BY run_id
       FOR UPDATE SKIP LOCKED
), dropped AS (
    UPDATE etl.run r
       SET state = 'cancelled', ended_at = clock_timestamp(), error_type = 'StartDeadline',
           error = 'did not start before its deadline', claimed = 0, written = 0, filtered = 0, quarantined = 0,
           deferred = 0, released = 0, vanished = 0, retried = 0, batches = 0
      FROM late
     WHERE r.run_id = late.run_id
 RETURNING r.run_id, r.job, r.trigger, r.scheduled_for, r.start_by
)
UPDATE etl.tick t
   SET decision = 'missed', reason = 'the run did not start before its deadline, ' || d.start_by::text
  FROM dropped d
 WHERE t.job = d.job AND t.trigger = d.trigger AND t.scheduled_for = d.scheduled_for AND t.run_id = d.run_id
