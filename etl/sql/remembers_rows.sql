-- Is anything remembered about single rows of a source, by its key as it is now?
--   $1 source
SELECT EXISTS (SELECT 1 FROM etl.covered WHERE source = $1 AND upto IS NOT NULL)
    OR EXISTS (SELECT 1 FROM etl.processed p JOIN etl.source_cursor c USING (source_id) WHERE c.source = $1)
