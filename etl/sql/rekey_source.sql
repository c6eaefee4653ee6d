-- The key by which a source is claimed was changed in the jobs: old positions and bounds mean nothing any more.
--   $1 source   $2 what its keys are made of now
-- Refuses (no row) while a range is reserved under the old key. The cursor row was locked by the statement before.
UPDATE etl.source_cursor c
   SET key = $2, positions = '{}'
 WHERE source = $1
   AND NOT EXISTS (SELECT 1 FROM etl.batch b WHERE b.source = $1 AND b.state IN ('open', 'expired'))
RETURNING source
