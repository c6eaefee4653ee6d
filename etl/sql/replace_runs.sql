-- Ask the active runs of an overlap key to stop, because another waits to take their place.
--   $1 overlap key   $2 the run that waits
WITH told AS (
    UPDATE etl.run
       SET cancel_reason = coalesce(cancel_reason, 'replaced by run ' || $2::uuid),
           replaced_by = coalesce(replaced_by, $2::uuid)
     WHERE overlap_key = $1 AND slot >= 0 AND state = 'running'
 RETURNING run_id
)
SELECT run_id, pg_notify('etl', 'cancel') FROM told
