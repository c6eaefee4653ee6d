-- The number of what flows from a source into a table here.
--   $1 origin   $2 source   $3 target
SELECT stream_id FROM etl_sink.stream WHERE origin = $1 AND source = $2 AND target = $3
