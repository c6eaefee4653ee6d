-- Episodes of limits that a job does not declare any more are over; nobody is told.
--   $1 jobs   $2 kinds that are not judged any more, beside each other
UPDATE etl.episode e
   SET closed_at = clock_timestamp()
  FROM unnest($1::text[], $2::text[]) AS f (job, kind)
 WHERE e.job = f.job AND e.kind = f.kind AND e.closed_at IS NULL
