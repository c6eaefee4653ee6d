-- Issues that have nothing to replay: their row does not exist any more, or somebody else has handled it.
--   $1 issues   $2 run   $3 state
UPDATE etl.row_issue SET state = $3, closed_at = clock_timestamp(), closed_by = $2, event = NULL WHERE issue_id = ANY ($1::bigint[])
