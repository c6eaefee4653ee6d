-- How many open issues a replay would take, by error type.
--   $1 job   $2 error type (null: any)   $3 run (null: any)
SELECT error_type, count(*) AS rows
  FROM etl.row_issue
 WHERE state = 'open' AND job = $1
   AND ($2::text IS NULL OR error_type = $2)
   AND ($3::uuid IS NULL OR run_id = $3)
 GROUP BY error_type
 ORDER BY rows DESC, error_type
