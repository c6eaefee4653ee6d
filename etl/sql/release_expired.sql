-- What vanished holders left of a source, given back: nobody can take it over by its old key. The source is locked.
--   $1 source
UPDATE etl.batch
   SET state = 'released', ended_at = clock_timestamp()
 WHERE state = 'expired' AND (source = $1 OR starts_with(source, $1 || '#'))
