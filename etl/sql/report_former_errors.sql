-- Why the former runs of a job set rows aside, grouped as the report groups this run's rows; `in_last`: the newest of
-- them that was no replay had it.
--   $1 former runs, newest first   $2 the newest of them that was no replay
-- Index: row_issue_of_run (run_id)
SELECT stage, error_type, regexp_replace(message, '\d+|''[^'']*''|"[^"]*"', '#', 'g') AS pattern,
       min(message) AS example, count(*) AS rows, count(DISTINCT run_id) AS runs, max(opened_at) AS last_seen,
       bool_or(run_id IS NOT DISTINCT FROM $2::uuid) AS in_last
  FROM etl.row_issue
 WHERE run_id = ANY ($1::uuid[]) AND due_at IS NULL
 GROUP BY stage, error_type, pattern
 ORDER BY last_seen DESC, error_type, pattern
