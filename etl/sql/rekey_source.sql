-- The key by which a source is claimed was changed in the jobs: old positions and bounds mean nothing any more.
--   $1 source   $2 what its keys are made of now
-- Refuses (no row) while a range is reserved under the old key, be it of one shard. The cursor row was locked by the
-- statement before; claims of shards hold it shared.
UPDATE etl.source_cursor c
   SET key = $2, positions = '{}'
 WHERE (source = $1 OR starts_with(source, $1 || '#') AND substr(source, length($1) + 2) ~ '^[0-9]+/[0-9]+$')
   AND NOT EXISTS (SELECT 1
                     FROM etl.batch b
                    WHERE b.state IN ('open', 'expired') AND (b.source = $1 OR starts_with(b.source, $1 || '#')))
RETURNING source
