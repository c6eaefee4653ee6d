-- After a full sweep: deferred rows that were due when it began and did not turn up in it do not wait any more (somebody
-- else handled or deleted them). Not while a range is reserved, for they may be in it.
--   $1 job   $2 source   $3 run   $4 begin of the sweep
UPDATE etl.row_issue
   SET state = 'gone', closed_at = clock_timestamp(), closed_by = $3
 WHERE job = $1 AND source = $2 AND state = 'deferred' AND due_at <= $4
   AND NOT EXISTS (SELECT 1 FROM etl.batch b WHERE b.state IN ('open', 'expired') AND (b.source = $2 OR starts_with(b.source, $2 || '#')))
