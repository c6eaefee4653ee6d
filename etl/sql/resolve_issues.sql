-- Rows that were set aside earlier have now been handled.
--   $1 job   $2 source   $3 keys (JSON arrays as text)   $4 run
UPDATE etl.row_issue
   SET state = 'resolved', closed_at = clock_timestamp(), closed_by = $4, event = NULL
 WHERE job = $1 AND source = $2 AND key = ANY ($3::text[]::jsonb[]) AND state IN ('open', 'deferred')
