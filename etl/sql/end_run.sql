-- End a run; its row is locked and was seen running. If it succeeded, whoever runs after its job hears of that, with
-- the time it was scheduled for.
--   $1 run   $2 state   $3 error type   $4 error   $5 claimed   $6 written   $7 filtered   $8 quarantined   $9 deferred
--   $10 released   $11 vanished   $12 retried   $13 batches   $14 topic of its success
--   $15, $16, $17 pending rows before it, whether that was counted, since when the oldest waits (null: as noted)
--   $18, $19, $20 the same after it   $21 seconds in transactions   $22 peak memory in bytes
WITH ended AS (
    UPDATE etl.run
       SET state = $2, ended_at = clock_timestamp(), error_type = $3, error = $4,
           claimed = $5, written = $6, filtered = $7, quarantined = $8, deferred = $9, released = $10, vanished = $11,
           retried = $12, batches = $13,
           backlog_before = coalesce($15, backlog_before), backlog_before_exact = coalesce($16, backlog_before_exact),
           oldest_before = coalesce($17, oldest_before),
           backlog_after = $18, backlog_after_exact = $19, oldest_after = $20, database_s = $21, peak_memory_bytes = $22
     WHERE run_id = $1 AND state = 'running'
 RETURNING *
), announced AS (
    INSERT INTO etl.message (job, trigger, topic, data, scheduled_for, traceparent)
    SELECT s.job, s.trigger, s.topic, jsonb_build_object('job', e.job, 'run_id', e.run_id), e.scheduled_for,
           e.traceparent
      FROM ended e
      JOIN etl.subscription s ON s.topic = $14
     WHERE e.state = 'succeeded'
)
SELECT e.*, EXISTS (SELECT 1 FROM etl.episode p WHERE p.job = e.job AND p.closed_at IS NULL) AS troubled FROM ended e
