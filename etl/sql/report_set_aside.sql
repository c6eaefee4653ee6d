-- Rows a run set aside, in the order in which that happened; of a payload only its beginning.
--   $1 run   $2 limit   $3 characters of a payload
SELECT key, state, stage, error_type, message, attempts, opened_at, left(payload::text, $3::int) AS payload,
       length(payload::text) AS payload_size, count(*) OVER () AS total
  FROM etl.row_issue
 WHERE run_id = $1 AND due_at IS NULL
 ORDER BY issue_id
 LIMIT $2
