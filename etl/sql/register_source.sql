-- Make sure that claimants of a source have a row to take turns on.
--   $1 source   $2 what its keys are made of
INSERT INTO etl.source_cursor (source, key)
VALUES ($1, $2)
ON CONFLICT (source) DO NOTHING
