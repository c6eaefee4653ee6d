-- Jobs with deferred rows that are due and no active run that would take them.
--   $1 jobs
SELECT DISTINCT i.job
  FROM etl.row_issue i
 WHERE i.state = 'deferred' AND i.due_at <= clock_timestamp() AND i.job = ANY ($1::text[])
   AND NOT EXISTS (SELECT 1 FROM etl.run r WHERE r.job = i.job AND r.state IN ('queued', 'running'))
