-- End a run; its row is locked and was seen running.
--   $1 run   $2 state   $3 error type   $4 error   $5 claimed   $6 written   $7 filtered   $8 quarantined   $9 deferred
--   $10 released   $11 vanished   $12 retried   $13 batches
UPDATE etl.run
   SET state = $2, ended_at = clock_timestamp(), error_type = $3, error = $4,
       claimed = $5, written = $6, filtered = $7, quarantined = $8, deferred = $9, released = $10, vanished = $11,
       retried = $12, batches = $13
 WHERE run_id = $1 AND state = 'running'
RETURNING *
