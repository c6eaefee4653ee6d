-- Rows a run set aside, grouped by the reason for it.
--   $1 run
SELECT stage, error_type, fingerprint, min(message) AS example, count(DISTINCT message) AS messages, count(*) AS rows,
       count(*) FILTER (WHERE state = 'open') AS open,
       (array_agg(key ORDER BY issue_id))[1] AS key,
       (array_agg(frame ORDER BY issue_id))[1] AS frame,
       (array_agg(traceback ORDER BY issue_id))[1] AS traceback
  FROM etl.row_issue
 WHERE run_id = $1 AND due_at IS NULL
 GROUP BY stage, error_type, fingerprint
 ORDER BY rows DESC, error_type, example
