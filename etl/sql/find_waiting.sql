-- The run of an overlap key that waits for a place, the first in line, and how many do.
--   $1 overlap key
SELECT run_id, count(*) OVER () AS waiting
  FROM etl.run
 WHERE overlap_key = $1 AND slot < 0 AND state = 'queued'
 ORDER BY queued_at, run_id
 LIMIT 1
