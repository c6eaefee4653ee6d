-- Send a message.
--   $1 topic   $2 data
SELECT etl.publish($1::text, $2::jsonb)
