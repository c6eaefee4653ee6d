-- Where one batch of a run begins and ends, the one with most rows; its key has to have as many parts as the source's.
--   $1 run   $2 parts of a key
SELECT lo, hi, number
  FROM etl.batch
 WHERE run_id = $1 AND NOT replay AND jsonb_array_length(hi) = $2
 ORDER BY claimed DESC, number
 LIMIT 1
