-- Messages that come to nothing.
--   $1 messages
DELETE FROM etl.message WHERE message_id = ANY ($1::bigint[]) AND run_id IS NULL
