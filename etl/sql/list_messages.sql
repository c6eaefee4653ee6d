-- The messages of a run, in the order they were sent.
--   $1 run
SELECT message_id, topic, data, published_at, repeats, traceparent FROM etl.message WHERE run_id = $1 ORDER BY message_id
