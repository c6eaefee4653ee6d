-- Name what flows from a source into a table here, unless that has a name already.
--   $1 origin   $2 source   $3 target
INSERT INTO etl_sink.stream (origin, source, target) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING
