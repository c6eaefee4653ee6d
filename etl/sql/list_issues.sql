-- Rows set aside, newest first.
--   $1 job (null: all)   $2 error type (null: any)   $3 run (null: any)   $4 states   $5 limit
SELECT issue_id, job, source, key, state, run_id, stage, error_type, message, traceback, attempts, payload, opened_at,
       due_at, closed_at, closed_by
  FROM etl.row_issue
 WHERE state = ANY ($4::text[])
   AND ($1::text IS NULL OR job = $1)
   AND ($2::text IS NULL OR error_type = $2)
   AND ($3::uuid IS NULL OR run_id = $3)
 ORDER BY issue_id DESC
 LIMIT $5
