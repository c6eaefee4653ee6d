-- Ask a replay run to take open issues.
--   $1 run   $2 job   $3 source   $4 error type (null: any)   $5 run they came from (null: any)
UPDATE etl.row_issue
   SET replay_id = $1
 WHERE state = 'open' AND job = $2 AND source = $3 AND exact
   AND ($4::text IS NULL OR error_type = $4)
   AND ($5::uuid IS NULL OR run_id = $5)
RETURNING issue_id, key
