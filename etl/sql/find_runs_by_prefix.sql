-- Runs whose id begins so.
--   $1 prefix (hexadecimal digits and dashes)
SELECT run_id FROM etl.run WHERE run_id::text LIKE $1 || '%' ORDER BY queued_at DESC LIMIT 3
