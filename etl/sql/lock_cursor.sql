-- Take turns on moving a cursor; what is covered must be read by a later statement.
--   $1 source
SELECT 1 FROM etl.covered WHERE source = $1 AND after IS NULL FOR NO KEY UPDATE
