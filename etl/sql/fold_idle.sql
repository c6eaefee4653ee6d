-- A run that found nothing to do takes in the one before it, if that did not either: one row of history for both.
--   $1 run
WITH me AS (
    SELECT run_id, job, trigger, overlap_key, queued_at FROM etl.run WHERE run_id = $1
), former AS MATERIALIZED (
    SELECT r.run_id, r.job, r.trigger, r.overlap_key, r.scheduled_for, r.state, r.claimed, r.batches,
           r.serves_messages, r.parent_id, r.arguments, r.row_limit, coalesce(r.idle_since, r.started_at) AS idle_since, r.idle_runs
      FROM etl.run r
     WHERE r.job = (SELECT job FROM me) AND r.queued_at < (SELECT queued_at FROM me)
     ORDER BY r.queued_at DESC
     LIMIT 1
       FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM etl.run r
     USING former f, me
     WHERE r.run_id = f.run_id AND f.trigger = me.trigger AND f.overlap_key = me.overlap_key  -- a backfill has its own
       AND f.state = 'succeeded' AND f.claimed = 0 AND f.batches = 0 AND f.parent_id IS NULL AND NOT f.serves_messages AND f.arguments = '{}'
       AND f.row_limit IS NULL
 RETURNING f.*
), tick AS (
    DELETE FROM etl.tick t
     USING gone g
     WHERE t.job = g.job AND t.trigger = g.trigger AND t.scheduled_for = g.scheduled_for AND t.run_id = g.run_id
)
UPDATE etl.run r
   SET idle_since = g.idle_since, idle_runs = g.idle_runs + 1
  FROM gone g
 WHERE r.run_id = $1
