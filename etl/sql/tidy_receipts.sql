-- Drop old receipts of one's own streams, some at a time; others may keep theirs for longer.
--   $1 how long history is kept   $2 streams
WITH gone AS (
    DELETE FROM etl_sink.receipt
     WHERE ctid = ANY (ARRAY(
           SELECT o.ctid
             FROM etl_sink.receipt o
            WHERE o.written_at < clock_timestamp() - $1::interval
              AND o.stream_id = ANY ($2::int[])
            LIMIT 10000))
 RETURNING 1
)
SELECT count(*) >= 10000 FROM gone
