-- The run that a fire time already has.
--   $1 job   $2 trigger   $3 scheduled for
SELECT run_id FROM etl.run WHERE job = $1 AND trigger = $2 AND scheduled_for = $3
 ORDER BY queued_at DESC
 LIMIT 1
