-- Rows a run set aside, grouped by stage, type and message with its numbers and quoted parts masked.
--   $1 run
SELECT stage, error_type, regexp_replace(message, '\d+|''[^'']*''|"[^"]*"', '#', 'g') AS pattern,
       min(message) AS example, count(DISTINCT message) AS messages, count(*) AS rows,
       count(*) FILTER (WHERE state = 'open') AS open,
       (array_agg(key ORDER BY issue_id))[1] AS key,
       (array_agg(traceback ORDER BY issue_id))[1] AS traceback
  FROM etl.row_issue
 WHERE run_id = $1 AND due_at IS NULL
 GROUP BY stage, error_type, pattern
 ORDER BY rows DESC, error_type, pattern
