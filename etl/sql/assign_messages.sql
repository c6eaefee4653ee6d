-- Give messages to a run.
--   $1 run   $2 messages
UPDATE etl.message SET run_id = $1 WHERE message_id = ANY ($2::bigint[]) AND run_id IS NULL
