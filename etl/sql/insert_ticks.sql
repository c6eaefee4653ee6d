-- Record what was decided about fire times.
--   $1 jobs   $2 triggers   $3 scheduled for   $4 decisions   $5 reasons   $6 runs   $7 blocked by   $8 missed until
--   $9 how many were missed
INSERT INTO etl.tick (job, trigger, scheduled_for, decision, reason, run_id, blocked_by, missed_until, missed_count)
SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::uuid[], $7::uuid[],
                     $8::timestamptz[], $9::bigint[])
    ON CONFLICT DO NOTHING
