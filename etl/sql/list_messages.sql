-- The messages of a run, in the order they were sent.
--   $1 run
SELECT topic, data, published_at, repeats, traceparent FROM etl.message WHERE run_id = $1 ORDER BY message_id
