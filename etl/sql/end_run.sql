-- End a run by its books; its row is locked and was seen running. Its batches are counted here, after that lock: none
-- can come to be any more. One given back or taken over counts as released. While one is open nothing is done: no row.
-- If the run succeeded, whoever runs after its job hears of that, with the time it was scheduled for.
--   $1 run   $2 its state by that   $3 its state if rows are in quarantine   $4 error type   $5 error
--   $6 topic of its success   $7 where the job's next sweeps begin, by source
--   $8, $9, $10 pending rows before it, whether that was counted, since when the oldest waits (null: as noted)
--   $11, $12, $13 the same after it   $14 seconds in transactions   $15 peak memory in bytes
WITH books AS MATERIALIZED (
    SELECT coalesce(sum(claimed), 0)::bigint AS claimed,
           coalesce(sum(written), 0)::bigint AS written,
           coalesce(sum(filtered), 0)::bigint AS filtered,
           coalesce(sum(quarantined), 0)::bigint AS quarantined,
           coalesce(sum(deferred), 0)::bigint AS deferred,
           coalesce(sum(claimed) FILTER (WHERE state IN ('released', 'expired', 'replaced')), 0)::bigint AS released,
           coalesce(sum(vanished), 0)::bigint AS vanished,
           coalesce(sum(retried), 0)::bigint AS retried,
           count(*) AS batches,
           count(*) FILTER (WHERE state = 'open') AS open
      FROM etl.batch
     WHERE run_id = $1
), ended AS (
    UPDATE etl.run r
       SET state = CASE WHEN b.quarantined > 0 THEN $3::text ELSE $2::text END,
           ended_at = clock_timestamp(), error_type = $4, error = $5,
           claimed = b.claimed, written = b.written, filtered = b.filtered, quarantined = b.quarantined,
           deferred = b.deferred, released = b.released, vanished = b.vanished, retried = b.retried,
           batches = b.batches,
           backlog_before = coalesce($8, backlog_before), backlog_before_exact = coalesce($9, backlog_before_exact),
           oldest_before = coalesce($10, oldest_before),
           backlog_after = $11, backlog_after_exact = $12, oldest_after = $13, database_s = $14, peak_memory_bytes = $15
      FROM books b
     WHERE r.run_id = $1 AND r.state = 'running' AND b.open = 0
 RETURNING r.*
), reached AS MATERIALIZED (  -- locked in one order, for two runs may end at once
    SELECT c.source, e.job, p.value AS position
      FROM ended e
     CROSS JOIN jsonb_each($7::jsonb) AS p
      JOIN etl.source_cursor c ON c.source = p.key
     ORDER BY c.source
       FOR UPDATE OF c
), remembered AS (
    UPDATE etl.source_cursor c
       SET positions = c.positions || jsonb_build_object(reached.job, reached.position)
      FROM reached
     WHERE c.source = reached.source
), announced AS (
    INSERT INTO etl.message (job, trigger, topic, data, scheduled_for, traceparent)
    SELECT s.job, s.trigger, s.topic, jsonb_build_object('job', e.job, 'run_id', e.run_id), e.scheduled_for,
           e.traceparent
      FROM ended e
      JOIN etl.subscription s ON s.topic = $6
     WHERE e.state = 'succeeded'
)
SELECT e.*, EXISTS (SELECT 1 FROM etl.episode p WHERE p.job = e.job AND p.closed_at IS NULL) AS troubled FROM ended e
