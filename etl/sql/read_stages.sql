-- What each stage did, batch by batch, in order.
--   $1 run
SELECT stages FROM etl.batch WHERE run_id = $1 AND stages IS NOT NULL ORDER BY number
