-- Drop old receipts, some at a time.
--   $1 how long history is kept
WITH gone AS (
    DELETE FROM etl_sink.receipt
     WHERE ctid = ANY (ARRAY(
           SELECT o.ctid FROM etl_sink.receipt o WHERE o.written_at < clock_timestamp() - $1::interval LIMIT 10000))
 RETURNING 1
)
SELECT count(*) >= 10000 FROM gone
