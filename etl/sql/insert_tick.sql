-- Record what was decided about a fire time.
--   $1 job   $2 trigger   $3 scheduled for   $4 decision   $5 reason   $6 run   $7 blocked by   $8 missed until   $9 count
INSERT INTO etl.tick (job, trigger, scheduled_for, decision, reason, run_id, blocked_by, missed_until, missed_count)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
    ON CONFLICT DO NOTHING
