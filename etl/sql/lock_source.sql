-- Take the turn of a source.
--   $1 source
SELECT source FROM etl.source_cursor WHERE source = $1 FOR UPDATE
