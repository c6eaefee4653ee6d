-- What vanished holders left of a source, given back: nobody can take it over by its old key. The source is locked.
--   $1 source
UPDATE etl.batch SET state = 'released', ended_at = clock_timestamp() WHERE source = $1 AND state = 'expired'
