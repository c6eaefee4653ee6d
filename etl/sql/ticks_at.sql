-- What was decided about the fire times of a job in a stretch of time.
--   $1 job   $2 from (included)   $3 to (left out)
SELECT *
  FROM etl.tick
 WHERE job = $1 AND (scheduled_for >= $2 AND scheduled_for < $3 OR scheduled_for < $3 AND missed_until >= $2)
 ORDER BY scheduled_for, trigger
