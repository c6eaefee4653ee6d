-- Make sure that claimants of a source have a row to take turns on.
--   $1 source   $2 what its keys are made of
-- Looked for first: an INSERT that comes to nothing would use up a number and a transaction id each time.
INSERT INTO etl.source_cursor (source, key)
SELECT $1, $2
 WHERE NOT EXISTS (SELECT 1 FROM etl.source_cursor WHERE source = $1)
ON CONFLICT (source) DO NOTHING
