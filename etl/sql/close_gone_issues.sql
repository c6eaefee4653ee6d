-- Issues whose row does not exist any more.
--   $1 issues   $2 run
UPDATE etl.row_issue SET state = 'gone', closed_at = clock_timestamp(), closed_by = $2 WHERE issue_id = ANY ($1::bigint[])
