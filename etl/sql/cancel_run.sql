-- Ask a run to stop: one that waits ends here, one that is active at its next batch edge.
--   $1 run   $2 reason
WITH waiting AS (
    UPDATE etl.run
       SET state = 'cancelled', ended_at = clock_timestamp(), error_type = 'Cancelled', error = $2, claimed = 0,
           written = 0, filtered = 0, quarantined = 0, deferred = 0, released = 0, vanished = 0, retried = 0, batches = 0
     WHERE run_id = $1 AND state = 'queued'
 RETURNING run_id
), active AS (
    UPDATE etl.run SET cancel_reason = coalesce(cancel_reason, $2) WHERE run_id = $1 AND state = 'running'
 RETURNING run_id
)
SELECT 'cancelled' AS outcome, pg_notify('etl', '') FROM waiting
UNION ALL
SELECT 'asked', pg_notify('etl', 'cancel') FROM active
