-- Send a message.
--   $1 topic   $2 data   $3 W3C context of the sender, or null
SELECT etl.publish($1::text, $2::jsonb, $3::text)
